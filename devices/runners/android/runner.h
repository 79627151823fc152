// What a runtime gives to the loop that the host drives; README.md says how the two talk.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arguments.h"
#include "tensors.h"

namespace handheld {

// One output of the last call; `data` lives until the next call. Elements lie `strides` apart, in elements; an empty
// `strides` says that they lie densely, the last axis fastest.
struct Output {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  const uint8_t* data;
};

// A model that its runtime has loaded. Each function throws Failure.
class Model {
 public:
  virtual ~Model() = default;
  virtual void feed(std::vector<Tensor>& inputs) = 0;  // once, before the first run; `inputs` outlive the model
  virtual void run() = 0;                              // one inference: nothing else is timed
  virtual std::vector<Output> outputs() = 0;
  virtual void trace(const std::string& path) = 0;
};

struct Runtime {
  std::string name;     // with its release: "ExecuTorch 1.5.1"
  size_t input_slack;   // bytes that must be allocated after an input
  std::vector<std::pair<std::string, std::string>> details;
  std::unique_ptr<Model> (*load)(const Arguments&);
};

// What a runtime logs as an error is the reason of the failure that follows, and of a crash. The first is kept until
// `forget_errors`; `first_error` is empty where there is none.
void note_error(const char* text, size_t length);
void forget_errors();
std::string first_error();

// The whole program: reads arguments and commands, writes events; gives the exit code.
int serve(const Runtime& runtime, int count, char** values);

}  // namespace handheld

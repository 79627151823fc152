// Runs an ExecuTorch program for the host.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#ifdef HANDHELD_ETDUMP
#include <executorch/devtools/etdump/etdump_flatcc.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "runner.h"
#include "threadpool.h"

#ifndef HANDHELD_EXECUTORCH_VERSION
#define HANDHELD_EXECUTORCH_VERSION "unknown"
#endif

namespace handheld {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::EventTracer;
using executorch::runtime::Program;
using executorch::runtime::Tag;

constexpr size_t kSlack = 128;  // XNNPACK's kernels may read so far past an input

struct Scalar {
  const char* dtype;
  ScalarType type;
};

constexpr Scalar kScalars[] = {
    {"float32", ScalarType::Float}, {"float16", ScalarType::Half}, {"bfloat16", ScalarType::BFloat16},
    {"float64", ScalarType::Double}, {"int64", ScalarType::Long},  {"int32", ScalarType::Int},
    {"int16", ScalarType::Short},    {"int8", ScalarType::Char},   {"uint8", ScalarType::Byte},
    {"bool", ScalarType::Bool},
};

std::string dtype_of(ScalarType type, const char* stage) {
  for (const Scalar& scalar : kScalars) {
    if (scalar.type == type) return scalar.dtype;
  }
  throw Failure(stage, "element type " + std::to_string(static_cast<int>(type)) + " of ExecuTorch is not supported here");
}

ScalarType type_of(const std::string& dtype) {
  for (const Scalar& scalar : kScalars) {
    if (dtype == scalar.dtype) return scalar.type;
  }
  throw Failure("input", dtype + " is not supported here");
}

std::string text_of(Error error) {
  char code[16];
  std::snprintf(code, sizeof code, "0x%x", static_cast<unsigned>(error));
  const std::string logged = first_error();
  return std::string(executorch::runtime::to_string(error)) + " (" + code + ")" + (logged.empty() ? "" : ": " + logged);
}

// Errors have codes only; what they mean is in the log, which on Android would not even be on standard error.
void log_message(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, size_t line,
                 const char* message, size_t length) {
  if (level == kError || level == kFatal) note_error(message, length);
  std::fprintf(stderr, "%c %s:%zu %.*s\n", static_cast<char>(level), file, line, static_cast<int>(length), message);
}

void check(Error error, const char* stage, const std::string& what) {
  if (error != Error::Ok) throw Failure(stage, what + ": " + text_of(error));
}

#ifdef HANDHELD_ETDUMP
std::unique_ptr<EventTracer> new_tracer() { return std::make_unique<executorch::etdump::ETDumpGen>(); }

// What it recorded since it was last read.
std::vector<uint8_t> read_tracer(EventTracer& tracer) {
  const auto dump = static_cast<executorch::etdump::ETDumpGen&>(tracer).get_etdump_data();
  const std::unique_ptr<void, decltype(&std::free)> owner(dump.buf, &std::free);
  const auto* bytes = static_cast<const uint8_t*>(dump.buf);
  return bytes == nullptr ? std::vector<uint8_t>() : std::vector<uint8_t>(bytes, bytes + dump.size);
}
#else
std::unique_ptr<EventTracer> new_tracer() {
  throw Failure("trace", "this runner was built without ExecuTorch's event tracer");
}

std::vector<uint8_t> read_tracer(EventTracer&) { return {}; }
#endif

class LoadedProgram final : public Model {
 public:
  explicit LoadedProgram(const Arguments& arguments)
      : path_(arguments.model), method_(arguments.method) {
    if (!set_threads(arguments.threads)) throw Failure("load", "the thread pool did not take " + std::to_string(arguments.threads) + " threads");
    // no tracer unless it is asked for: it takes time and memory
    std::unique_ptr<EventTracer> tracer = arguments.trace ? new_tracer() : nullptr;
    tracer_ = tracer.get();
    module_ = std::make_unique<Module>(path_, Module::LoadMode::Mmap, std::move(tracer));
    // a damaged file must be found here and not by a crash
    check(module_->load(Program::Verification::InternalConsistency), "load", path_);
    const auto names = module_->method_names();
    check(names.error(), "load", path_);
    if (names->count(method_) == 0) {
      std::vector<std::string> known(names->begin(), names->end());
      std::sort(known.begin(), known.end());
      std::string list;
      for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
      throw Failure("load", path_ + ": has no method '" + method_ + "', but " + list);
    }
    check(module_->load_method(method_), "load", path_);
  }

  void feed(std::vector<Tensor>& inputs) override {
    const auto meta = module_->method_meta(method_);
    check(meta.error(), "input", path_);
    if (meta->num_inputs() != inputs.size()) {
      throw Failure("input", path_ + ": takes " + std::to_string(meta->num_inputs()) + " inputs, and " +
                                 std::to_string(inputs.size()) + " were given");
    }
    for (size_t index = 0; index < inputs.size(); ++index) {
      Tensor& input = inputs[index];
      check_input(*meta, index, input);
      const std::vector<SizesType> sizes(input.shape.begin(), input.shape.end());
      tensors_.push_back(executorch::extension::from_blob(input.data.data(), sizes, type_of(input.dtype)));
      values_.emplace_back(tensors_.back());
    }
    // the runtime itself refuses shapes that the program cannot take
    check(module_->set_inputs(method_, values_), "input", path_);
  }

  void run() override {
    forget_errors();
    auto outputs = module_->execute(method_, values_);
    if (!outputs.ok()) throw Failure("run", path_ + ": " + text_of(outputs.error()));
    outputs_ = std::move(outputs.get());
  }

  std::vector<Output> outputs() override {
    std::vector<Output> found;
    for (const EValue& value : outputs_) {
      if (!value.isTensor()) throw Failure("output", path_ + ": output " + std::to_string(found.size()) + " is no tensor");
      const auto& tensor = value.toTensor();
      found.push_back({dtype_of(tensor.scalar_type(), "output"),
                       {tensor.sizes().begin(), tensor.sizes().end()},
                       {tensor.strides().begin(), tensor.strides().end()},
                       static_cast<const uint8_t*>(tensor.const_data_ptr())});
    }
    return found;
  }

  void trace(const std::string& path) override {
    const std::vector<uint8_t> dump = read_tracer(*tracer_);
    if (dump.empty()) throw Failure("trace", "ExecuTorch gave no ETDump; it was built without its event tracer");
    write_file(path, dump.data(), dump.size(), "trace");
  }

 private:
  template <typename Meta>
  void check_input(const Meta& meta, size_t index, const Tensor& input) const {
    const std::string where = path_ + ": input " + std::to_string(index);
    const auto tag = meta.input_tag(index);
    if (!tag.ok() || tag.get() != Tag::Tensor) throw Failure("input", where + " is no tensor");
    const auto info = meta.input_tensor_meta(index);
    check(info.error(), "input", where);
    const auto sizes = info->sizes();  // of a shape that may vary: the largest
    bool fits = sizes.size() == input.shape.size();
    for (size_t axis = 0; fits && axis < sizes.size(); ++axis) fits = input.shape[axis] <= sizes[axis];
    const std::string dtype = dtype_of(info->scalar_type(), "input");
    if (!fits || dtype != input.dtype) {
      throw Failure("input", where + " is " + dtype + " of " + shape_text({sizes.begin(), sizes.end()}) + ", and " +
                                 input.dtype + " of " + shape_text(input.shape) + " was given");
    }
    const auto order = info->dim_order();
    for (size_t axis = 0; axis < order.size(); ++axis) {
      if (order[axis] != axis) throw Failure("input", where + " has its axes in another order in memory, which is not supported here");
    }
  }

  std::string path_, method_;
  EventTracer* tracer_ = nullptr;  // the module's
  std::unique_ptr<Module> module_;
  std::vector<TensorPtr> tensors_;
  std::vector<EValue> values_, outputs_;
};

std::unique_ptr<Model> load(const Arguments& arguments) { return std::make_unique<LoadedProgram>(arguments); }

}  // namespace
}  // namespace handheld

int main(int count, char** values) {
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(&handheld::log_message, __FILE__));
  executorch::runtime::runtime_init();
  return handheld::serve({"ExecuTorch " HANDHELD_EXECUTORCH_VERSION, handheld::kSlack, {{"load_mode", "mmap"}}, handheld::load},
                         count, values);
}

// Runs an ONNX model for the host, on the processor.
#include <dirent.h>
#include <onnxruntime_c_api.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "runner.h"

namespace handheld {
namespace {

// The functions used here are all in this version of the interface, which every release since 1.12 offers, so that
// headers of one release go with a library of another.
constexpr uint32_t kApiVersion = 12;

const OrtApi* api = nullptr;

struct Release {
  void operator()(OrtEnv* value) const { api->ReleaseEnv(value); }
  void operator()(OrtSession* value) const { api->ReleaseSession(value); }
  void operator()(OrtSessionOptions* value) const { api->ReleaseSessionOptions(value); }
  void operator()(OrtMemoryInfo* value) const { api->ReleaseMemoryInfo(value); }
  void operator()(OrtValue* value) const { api->ReleaseValue(value); }
  void operator()(OrtTypeInfo* value) const { api->ReleaseTypeInfo(value); }
  void operator()(OrtTensorTypeAndShapeInfo* value) const { api->ReleaseTensorTypeAndShapeInfo(value); }
  void operator()(OrtStatus* value) const { api->ReleaseStatus(value); }
};

template <typename Handle>
using Owned = std::unique_ptr<Handle, Release>;

void check(OrtStatus* status, const char* stage, const std::string& what) {
  const Owned<OrtStatus> owner(status);
  if (status != nullptr) throw Failure(stage, what + ": " + api->GetErrorMessage(status));
}

struct Element {
  const char* dtype;
  ONNXTensorElementDataType type;
};

constexpr Element kElements[] = {
    {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},   {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {"bfloat16", ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}, {"float64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
    {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},     {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
    {"int16", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},     {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
    {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},     {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
};

std::string dtype_of(ONNXTensorElementDataType type, const char* stage) {
  for (const Element& element : kElements) {
    if (element.type == type) return element.dtype;
  }
  throw Failure(stage, "element type " + std::to_string(static_cast<int>(type)) + " of ONNX Runtime is not supported here");
}

ONNXTensorElementDataType type_of(const std::string& dtype) {
  for (const Element& element : kElements) {
    if (dtype == element.dtype) return element.type;
  }
  throw Failure("input", dtype + " is not supported here");
}

// Type and sides; a side that may vary is -1.
void describe(const OrtTensorTypeAndShapeInfo* info, const char* stage, ONNXTensorElementDataType& type,
              std::vector<int64_t>& shape) {
  size_t rank = 0;
  check(api->GetTensorElementType(info, &type), stage, "type");
  check(api->GetDimensionsCount(info, &rank), stage, "rank");
  shape.resize(rank);
  check(api->GetDimensions(info, shape.data(), rank), stage, "shape");
}

// With its slash.
std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "./" : path.substr(0, slash + 1);
}

// Removes the files whose names begin with `prefix`.
void remove_profiles(const std::string& prefix) {
  const std::string folder = folder_of(prefix), begin = prefix.substr(folder.size());
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(folder.c_str()), &::closedir);
  while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr) {
    if (std::string(entry->d_name).rfind(begin, 0) == 0) std::remove((folder + entry->d_name).c_str());
  }
}

class Session final : public Model {
 public:
  explicit Session(const Arguments& arguments) : path_(arguments.model) {
    OrtEnv* env = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "handheld", &env), "load", "ONNX Runtime");
    env_.reset(env);
    OrtSessionOptions* raw = nullptr;
    check(api->CreateSessionOptions(&raw), "load", "ONNX Runtime");
    const Owned<OrtSessionOptions> options(raw);
    check(api->SetIntraOpNumThreads(raw, arguments.threads), "load", "threads");
    check(api->SetInterOpNumThreads(raw, 1), "load", "threads");
    // its workers would otherwise go on spinning into the next candidate's turn
    check(api->AddSessionConfigEntry(raw, "session.force_spinning_stop", "1"), "load", "spinning");
    if (arguments.trace) check(api->EnableProfiling(raw, profile_prefix().c_str()), "trace", "profiling");
    OrtSession* session = nullptr;
    OrtStatus* status = api->CreateSession(env_.get(), path_.c_str(), raw, &session);
    if (status != nullptr && arguments.trace) remove_profiles(profile_prefix());  // it leaves an empty one
    check(status, "load", path_);
    session_.reset(session);
    profiling_ = arguments.trace;
    check(api->GetAllocatorWithDefaultOptions(&allocator_), "load", "allocator");
    size_t count = 0;
    check(api->SessionGetInputCount(session, &count), "load", path_);
    for (size_t index = 0; index < count; ++index) input_names_.push_back(name_of(&OrtApi::SessionGetInputName, index));
    check(api->SessionGetOutputCount(session, &count), "load", path_);
    for (size_t index = 0; index < count; ++index) output_names_.push_back(name_of(&OrtApi::SessionGetOutputName, index));
    outputs_.resize(count);
  }

  ~Session() override {
    outputs_.clear();
    inputs_.clear();
    if (profiling_) end_profiling();  // or the runtime would leave the file behind
  }

  void feed(std::vector<Tensor>& inputs) override {
    if (input_names_.size() != inputs.size()) {
      throw Failure("input", path_ + ": takes " + std::to_string(input_names_.size()) + " inputs, and " +
                                 std::to_string(inputs.size()) + " were given");
    }
    OrtMemoryInfo* raw = nullptr;
    check(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &raw), "input", "memory");
    const Owned<OrtMemoryInfo> memory(raw);
    for (size_t index = 0; index < inputs.size(); ++index) {
      Tensor& input = inputs[index];
      check_input(index, input);
      OrtValue* value = nullptr;
      check(api->CreateTensorWithDataAsOrtValue(raw, input.data.data(), input.data.size(), input.shape.data(),
                                                input.shape.size(), type_of(input.dtype), &value),
            "input", input_names_[index]);
      inputs_.emplace_back(value);
    }
    for (const std::string& name : input_names_) input_pointers_.push_back(name.c_str());
    for (const std::string& name : output_names_) output_pointers_.push_back(name.c_str());
    for (const auto& value : inputs_) values_.push_back(value.get());
    results_.resize(output_names_.size());
  }

  void run() override {
    std::fill(results_.begin(), results_.end(), nullptr);  // the runtime allocates the outputs
    OrtStatus* status = api->Run(session_.get(), nullptr, input_pointers_.data(), values_.data(), values_.size(),
                                 output_pointers_.data(), results_.size(), results_.data());
    for (size_t index = 0; index < results_.size(); ++index) outputs_[index].reset(results_[index]);
    check(status, "run", path_);
  }

  std::vector<Output> outputs() override {
    std::vector<Output> found;
    for (size_t index = 0; index < outputs_.size(); ++index) {
      const std::string where = path_ + ": output " + output_names_[index];
      int tensor = 0;
      check(api->IsTensor(outputs_[index].get(), &tensor), "output", where);
      if (tensor == 0) throw Failure("output", where + " is no tensor");
      OrtTensorTypeAndShapeInfo* raw = nullptr;
      check(api->GetTensorTypeAndShape(outputs_[index].get(), &raw), "output", where);
      const Owned<OrtTensorTypeAndShapeInfo> info(raw);
      ONNXTensorElementDataType type;
      Output output{"", {}, {}, nullptr};
      describe(raw, "output", type, output.shape);
      output.dtype = dtype_of(type, "output");
      void* data = nullptr;
      check(api->GetTensorMutableData(outputs_[index].get(), &data), "output", where);
      output.data = static_cast<const uint8_t*>(data);
      found.push_back(output);
    }
    return found;
  }

  void trace(const std::string& path) override {
    if (!profiling_) throw Failure("trace", "the profile was written already");
    const std::string written = end_profiling(path);
    if (written.empty()) throw Failure("trace", "ONNX Runtime could not write its profile to " + profile_prefix() + "*");
  }

 private:
  // ONNX Runtime adds a date and ".json".
  std::string profile_prefix() const {
    const char* folder = std::getenv("TMPDIR");
    return (folder != nullptr ? std::string(folder) + "/" : folder_of(path_)) + "handheld-profile-" +
           std::to_string(::getpid()) + "-";
  }

  // Ends profiling and removes its file; first copies it to `path` where one is given. Gives the file's name, or
  // nothing where there is no such file.
  std::string end_profiling(const std::string& path = "") {
    profiling_ = false;
    char* name = nullptr;
    const Owned<OrtStatus> status(api->SessionEndProfiling(session_.get(), allocator_, &name));
    if (status != nullptr) return "";
    const std::string written = name;
    const Owned<OrtStatus> freed(api->AllocatorFree(allocator_, name));
    const File file = open_file(written, "rb");
    if (!file) return "";
    std::string content;
    char block[65536];
    if (!path.empty()) {
      while (const size_t bytes = std::fread(block, 1, sizeof block, file.get())) content.append(block, bytes);
    }
    std::remove(written.c_str());
    if (!path.empty()) write_file(path, content.data(), content.size(), "trace");
    return written;
  }

  template <typename Getter>
  std::string name_of(Getter getter, size_t index) const {
    char* name = nullptr;
    check((api->*getter)(session_.get(), index, allocator_, &name), "load", path_);
    const std::string copy = name;
    check(api->AllocatorFree(allocator_, name), "load", path_);
    return copy;
  }

  void check_input(size_t index, const Tensor& input) const {
    const std::string where = path_ + ": input " + input_names_[index];
    OrtTypeInfo* raw = nullptr;
    check(api->SessionGetInputTypeInfo(session_.get(), index, &raw), "input", where);
    const Owned<OrtTypeInfo> owner(raw);
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api->CastTypeInfoToTensorInfo(raw, &info), "input", where);
    if (info == nullptr) throw Failure("input", where + " is no tensor");
    ONNXTensorElementDataType type;
    std::vector<int64_t> shape;
    describe(info, "input", type, shape);
    bool fits = shape.size() == input.shape.size();
    for (size_t axis = 0; fits && axis < shape.size(); ++axis) fits = shape[axis] < 0 || shape[axis] == input.shape[axis];
    if (!fits || type != type_of(input.dtype)) {
      throw Failure("input", where + " is " + dtype_of(type, "input") + " of " + shape_text(shape) + ", and " +
                                 input.dtype + " of " + shape_text(input.shape) + " was given");
    }
  }

  std::string path_;
  bool profiling_ = false;
  Owned<OrtEnv> env_;
  Owned<OrtSession> session_;
  OrtAllocator* allocator_ = nullptr;  // the runtime's
  std::vector<std::string> input_names_, output_names_;
  std::vector<const char*> input_pointers_, output_pointers_;
  std::vector<Owned<OrtValue>> inputs_, outputs_;
  std::vector<const OrtValue*> values_;
  std::vector<OrtValue*> results_;
};

std::unique_ptr<Model> load(const Arguments& arguments) {
  if (api == nullptr) throw Failure("load", std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " is too old");
  return std::make_unique<Session>(arguments);
}

}  // namespace
}  // namespace handheld

int main(int count, char** values) {
  const OrtApiBase* base = OrtGetApiBase();
  handheld::api = base->GetApi(handheld::kApiVersion);
  return handheld::serve({std::string("ONNX Runtime ") + base->GetVersionString(), 0, {{"provider", "CPU"}}, handheld::load},
                         count, values);
}

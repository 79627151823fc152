// The loop that the host drives: commands on standard input, events on standard output.
#include "runner.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <iostream>

#include "json_lines.h"
#include "memory.h"

namespace handheld {
namespace {

constexpr int kMemoryRuns = 2;
constexpr uint64_t kMostUntimed = 1000000;

int events = STDOUT_FILENO;               // where events go
char noted[256] = "";                      // the first error that the runtime logged, fit for JSON as it is
const char* volatile stage = "arguments";  // what is being done, for an error that does not say

void write_all(const char* text, size_t bytes) {
  while (bytes > 0) {
    const ssize_t written = ::write(events, text, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) ::_exit(1);  // nobody listens
    text += written;
    bytes -= static_cast<size_t>(written);
  }
}

void emit(const Object& object) {
  const std::string line = object.str() + "\n";
  write_all(line.data(), line.size());
}

// A runtime may die of a damaged model where it should return an error; the host is told all the same. Only what may
// be called in a signal handler is called.
void on_fatal_signal(int number) {
  const char* name = number == SIGABRT  ? "SIGABRT"
                     : number == SIGBUS ? "SIGBUS"
                     : number == SIGFPE ? "SIGFPE"
                     : number == SIGILL ? "SIGILL"
                                        : "SIGSEGV";
  const char* const parts[] = {"{\"event\":\"error\",\"stage\":\"", stage, "\",\"message\":\"the runtime was ended by ", name,
                               noted[0] == '\0' ? "" : ": ", noted, "\"}\n"};
  for (const char* part : parts) {
    size_t length = 0;
    while (part[length] != '\0') ++length;
    write_all(part, length);
  }
  ::_exit(1);
}

void catch_fatal_signals() {
  static uint8_t stack[64 * 1024];  // of its own: the usual one may have overflowed
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  ::sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_fatal_signal;
  action.sa_flags = SA_ONSTACK | SA_RESETHAND;
  ::sigemptyset(&action.sa_mask);
  for (const int number : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV}) ::sigaction(number, &action, nullptr);
}

// Keeps standard output for events: what a runtime prints there goes to standard error.
void keep_output_for_events() {
  const int kept = ::dup(STDOUT_FILENO);
  if (kept < 0) return;
  ::fcntl(kept, F_SETFD, FD_CLOEXEC);
  if (::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    ::close(kept);
    return;
  }
  events = kept;
}

double timed(Model& model) {
  const auto begin = std::chrono::steady_clock::now();
  model.run();
  const auto end = std::chrono::steady_clock::now();
  return std::chrono::duration<double, std::milli>(end - begin).count();
}

size_t elements(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (const int64_t side : shape) count *= static_cast<size_t>(side);
  return count;
}

// The elements of an output, the last axis fastest.
std::vector<uint8_t> dense(const Output& output) {
  const size_t bytes = dtype_bytes(output.dtype), count = elements(output.shape);
  if (output.strides.empty()) return std::vector<uint8_t>(output.data, output.data + count * bytes);
  std::vector<uint8_t> data(count * bytes);
  std::vector<int64_t> place(output.shape.size(), 0);
  for (size_t index = 0; index < count; ++index) {
    int64_t offset = 0;
    for (size_t axis = 0; axis < place.size(); ++axis) offset += place[axis] * output.strides[axis];
    std::memcpy(&data[index * bytes], output.data + static_cast<size_t>(offset) * bytes, bytes);
    for (size_t axis = place.size(); axis-- > 0 && ++place[axis] == output.shape[axis];) place[axis] = 0;
  }
  return data;
}

Object write_outputs(Model& model, const std::string& prefix) {
  std::vector<Object> files;
  for (const Output& output : model.outputs()) {
    const std::string path = prefix + std::to_string(files.size()) + ".bin";
    const std::vector<uint8_t> data = dense(output);
    write_file(path, data.data(), data.size(), "output");
    files.push_back(Object().text("path", path).text("dtype", output.dtype).integers("shape", output.shape));
  }
  return event("outputs").objects("files", files);
}

Object run(Model& model, const std::string& untimed) {
  for (uint64_t left = whole_number(untimed, kMostUntimed, "run"); left > 0; --left) model.run();
  return event("ran").number("ms", timed(model));
}

void answer_commands(Model& model, const Arguments& arguments) {
  bool ran = false;
  std::string line;
  for (stage = "run"; std::getline(std::cin, line); stage = "run") {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const size_t space = line.find(' ');
    const std::string command = line.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (command.empty()) continue;
    if (command == "quit") return;
    if (command == "run") {
      stage = "run";
      emit(run(model, rest));
      ran = true;
    } else if (command == "outputs" && !rest.empty()) {
      stage = "output";
      if (!ran) throw Failure("output", "there are no outputs before the first run");
      emit(write_outputs(model, rest));
    } else if (command == "trace" && !rest.empty()) {
      stage = "trace";
      if (!arguments.trace) throw Failure("trace", "the runner was started without --trace");
      model.trace(rest);
      emit(event("traced").text("path", rest));
    } else {
      throw Failure("arguments", "unknown command '" + line + "'; known: run K, outputs PREFIX, trace FILE, quit");
    }
  }
}

std::vector<Tensor> read_inputs(const Arguments& arguments, size_t slack) {
  std::vector<Tensor> inputs;
  for (const Input& input : arguments.inputs) {
    inputs.push_back({input.dtype, input.shape, read_exactly(input.path, input.bytes, slack)});
  }
  return inputs;
}

// Not every runtime says what is wrong with a file that is not there.
void check_readable(const std::string& path) {
  if (!open_file(path, "rb")) throw Failure("load", path + ": " + reason());
}

// Loads and runs a model, and says what that took over what was there before.
Object measure_memory(const Runtime& runtime, const Arguments& arguments, std::vector<Tensor>& inputs) {
  stage = "memory";
  const bool reset = reset_peak();
  // without a peak that begins here, the peak up to here is the fairest thing to subtract
  const int64_t baseline = status_bytes(reset ? "VmRSS" : "VmHWM");
  stage = "load";
  const std::unique_ptr<Model> model = runtime.load(arguments);
  stage = "input";
  model->feed(inputs);
  stage = "run";
  for (int call = 0; call < kMemoryRuns; ++call) model->run();
  stage = "memory";
  return event("memory").integer("baseline_bytes", baseline).integer("peak_bytes", status_bytes("VmHWM"));
}

Object ready(const Runtime& runtime, const Arguments& arguments, double load_ms) {
  Object details;
  for (const auto& [key, value] : runtime.details) details.text(key.c_str(), value);
  return event("ready")
      .integer("protocol", 1)
      .text("runtime", runtime.name)
      .integer("threads", arguments.threads)
      .number("load_ms", load_ms)
      .integer("pid", ::getpid())
      .object("details", details);
}

void work(const Runtime& runtime, int count, char** values) {
  const Arguments arguments = parse_arguments(count, values);
  check_readable(arguments.model);
  stage = "input";
  std::vector<Tensor> inputs = read_inputs(arguments, runtime.input_slack);
  if (arguments.memory) return emit(measure_memory(runtime, arguments, inputs));
  stage = "load";
  const auto begin = std::chrono::steady_clock::now();
  const std::unique_ptr<Model> model = runtime.load(arguments);
  const std::chrono::duration<double, std::milli> load_ms = std::chrono::steady_clock::now() - begin;
  stage = "input";
  model->feed(inputs);
  emit(ready(runtime, arguments, load_ms.count()));
  answer_commands(*model, arguments);
}

int failed(const std::string& where, const std::string& message) {
  emit(event("error").text("stage", where).text("message", message));
  return where == "arguments" ? 2 : 1;
}

}  // namespace

void note_error(const char* text, size_t length) {
  if (noted[0] != '\0') return;
  size_t at = 0;
  for (; at < length && at + 1 < sizeof noted && text[at] != '\0'; ++at) {
    const char letter = text[at];
    noted[at] = letter < ' ' || letter > '~' || letter == '"' || letter == '\\' ? '?' : letter;
  }
  noted[at] = '\0';
}

void forget_errors() { noted[0] = '\0'; }

std::string first_error() { return noted; }

int serve(const Runtime& runtime, int count, char** values) {
  keep_output_for_events();
  catch_fatal_signals();
  try {
    work(runtime, count, values);
    return 0;
  } catch (const Failure& failure) {
    return failed(failure.stage, failure.what());
  } catch (const std::bad_alloc&) {
    return failed(stage, "out of memory");
  } catch (const std::exception& error) {
    return failed(stage, error.what());
  }
}

}  // namespace handheld

// The command line of a runner.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "failure.h"
#include "tensors.h"

namespace handheld {

struct Input {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string path;
  size_t bytes;
};

struct Arguments {
  std::string model;
  std::string method = "forward";
  std::vector<Input> inputs;
  int threads = 0;
  bool trace = false;
  bool memory = false;
};

constexpr int kMostThreads = 1024;
constexpr uint64_t kMostBytes = uint64_t{1} << 40;  // of one tensor: what is more is a mistake

// A whole number from 0 to `most`, in decimal digits and nothing else.
inline uint64_t whole_number(const std::string& text, uint64_t most, const std::string& what) {
  uint64_t value = 0;
  bool good = !text.empty() && text.size() <= 18;
  for (const char digit : text) {
    good = good && digit >= '0' && digit <= '9';
    if (good) value = value * 10 + static_cast<uint64_t>(digit - '0');
  }
  if (!good || value > most) {
    throw Failure("arguments", what + ": '" + text + "' is no whole number from 0 to " + std::to_string(most));
  }
  return value;
}

// Reads "float32:1x3x4x4:FILE"; a scalar has no sides: "float32::FILE". FILE may hold colons.
inline Input parse_input(const std::string& text) {
  const size_t first = text.find(':');
  const size_t second = first == std::string::npos ? first : text.find(':', first + 1);
  if (second == std::string::npos || second + 1 == text.size()) {
    throw Failure("arguments", "--input '" + text + "': expected DTYPE:SHAPE:FILE, such as float32:1x3x4x4:input.bin");
  }
  Input input{text.substr(0, first), {}, text.substr(second + 1), 0};
  uint64_t bytes = dtype_bytes(input.dtype);
  if (bytes == 0) {
    std::string known;
    for (const Dtype& dtype : kDtypes) known += std::string(known.empty() ? "" : ", ") + dtype.name;
    throw Failure("arguments", "--input '" + text + "': unknown type '" + input.dtype + "'; known: " + known);
  }
  const std::string sides = text.substr(first + 1, second - first - 1);
  for (size_t at = 0; !sides.empty() && at <= sides.size();) {
    const size_t end = std::min(sides.find('x', at), sides.size());
    const uint64_t side = whole_number(sides.substr(at, end - at), 1u << 30, "--input '" + text + "': a side");
    input.shape.push_back(static_cast<int64_t>(side));
    if (side != 0 && bytes > kMostBytes / side) throw Failure("arguments", "--input '" + text + "': the shape is too large");
    bytes *= side;
    at = end + 1;
  }
  input.bytes = static_cast<size_t>(bytes);
  return input;
}

inline Arguments parse_arguments(int count, char** values) {
  Arguments arguments;
  const auto following = [&](int& at) -> std::string {
    if (at + 1 >= count) throw Failure("arguments", std::string(values[at]) + ": needs a value");
    return values[++at];
  };
  for (int at = 1; at < count; ++at) {
    const std::string word = values[at];
    if (word == "--input") {
      arguments.inputs.push_back(parse_input(following(at)));
    } else if (word == "--threads") {
      arguments.threads = static_cast<int>(whole_number(following(at), kMostThreads, "--threads"));
      if (arguments.threads == 0) throw Failure("arguments", "--threads: at least 1");
    } else if (word == "--method") {
      arguments.method = following(at);
    } else if (word == "--trace") {
      arguments.trace = true;
    } else if (word == "--memory") {
      arguments.memory = true;
    } else if (word.rfind("--", 0) == 0 || !arguments.model.empty()) {
      throw Failure("arguments", "unknown argument '" + word + "'; known: MODEL, --input, --threads, --method, --trace, --memory");
    } else {
      arguments.model = word;
    }
  }
  if (arguments.model.empty()) throw Failure("arguments", "no MODEL was named");
  if (arguments.trace && arguments.memory) throw Failure("arguments", "--trace and --memory: a tracer would count as the model's memory");
  if (arguments.threads == 0) arguments.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return arguments;
}

}  // namespace handheld

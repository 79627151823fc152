// Types of elements by the names that the host uses, shapes, and raw little-endian files.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "failure.h"

namespace handheld {

struct Dtype {
  const char* name;
  size_t bytes;
};

constexpr Dtype kDtypes[] = {
    {"float32", 4}, {"float16", 2}, {"bfloat16", 2}, {"float64", 8}, {"int64", 8},
    {"int32", 4},   {"int16", 2},   {"int8", 1},     {"uint8", 1},   {"bool", 1},
};

// Bytes of an element; 0 for a name that is none.
inline size_t dtype_bytes(const std::string& name) {
  for (const Dtype& dtype : kDtypes) {
    if (name == dtype.name) return dtype.bytes;
  }
  return 0;
}

// "1x3x4x4" of a shape; "scalar" of none.
inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t side : shape) text += (text.empty() ? "" : "x") + std::to_string(side);
  return text.empty() ? "scalar" : text;
}

struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> data;
};

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

inline File open_file(const std::string& path, const char* mode) { return File(std::fopen(path.c_str(), mode), &std::fclose); }

inline std::string reason() { return std::strerror(errno); }

// `bytes` bytes from `path`, which must hold exactly that many. `slack` bytes more are allocated after them: some
// kernels read past the end of a row.
inline std::vector<uint8_t> read_exactly(const std::string& path, size_t bytes, size_t slack) {
  const File file = open_file(path, "rb");
  if (!file) throw Failure("input", path + ": " + reason());
  if (std::fseek(file.get(), 0, SEEK_END) != 0) throw Failure("input", path + ": " + reason());
  const long size = std::ftell(file.get());
  std::rewind(file.get());
  if (size < 0 || static_cast<size_t>(size) != bytes) {
    throw Failure("input", path + ": holds " + std::to_string(size) + " bytes, its shape and type need " + std::to_string(bytes));
  }
  std::vector<uint8_t> data(bytes + slack);
  if (std::fread(data.data(), 1, bytes, file.get()) != bytes) throw Failure("input", path + ": cannot be read");
  return data;
}

inline void write_file(const std::string& path, const void* data, size_t bytes, const char* stage) {
  File file = open_file(path, "wb");
  if (!file) throw Failure(stage, path + ": " + reason());
  const bool written = std::fwrite(data, 1, bytes, file.get()) == bytes;
  if (std::fclose(file.release()) != 0 || !written) {
    const std::string why = reason();
    std::remove(path.c_str());  // half a file would look like a whole one
    throw Failure(stage, path + ": " + why);
  }
}

}  // namespace handheld

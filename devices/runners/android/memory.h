// Resident memory of this process, as /proc/self tells it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "failure.h"
#include "tensors.h"

namespace handheld {

// Sets the peak back to what is resident now; false where the system does not let it.
inline bool reset_peak() {
  File file = open_file("/proc/self/clear_refs", "w");
  if (!file) return false;
  const bool written = std::fputs("5", file.get()) >= 0;
  return std::fclose(file.release()) == 0 && written;
}

// Bytes of a line of /proc/self/status such as "VmHWM:     1234 kB".
inline int64_t status_bytes(const char* key) {
  const File file = open_file("/proc/self/status", "r");
  if (!file) throw Failure("memory", "/proc/self/status: " + reason());
  char line[256];
  const size_t length = std::strlen(key);
  while (std::fgets(line, sizeof line, file.get()) != nullptr) {
    long long kilobytes = 0;
    if (std::strncmp(line, key, length) == 0 && line[length] == ':' && std::sscanf(line + length + 1, "%lld", &kilobytes) == 1) {
      return static_cast<int64_t>(kilobytes) * 1024;
    }
  }
  throw Failure("memory", std::string("/proc/self/status: tells no ") + key);
}

}  // namespace handheld

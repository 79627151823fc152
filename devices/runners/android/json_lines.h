// JSON objects, one a line. The host reads nothing else from standard output.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace handheld {

// Bytes of the well-formed UTF-8 character that begins at `text[at]`; 0 where none does.
inline size_t utf8_length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t first = byte(at), second = byte(at + 1);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(at + 1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool overlong = first == 0xE0 && second < 0xA0, surrogate = first == 0xED && second > 0x9F;
    return continues(at + 1) && continues(at + 2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && second < 0x90, beyond = first == 0xF4 && second > 0x8F;
    return continues(at + 1) && continues(at + 2) && continues(at + 3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

// `text` as a JSON string. Bytes that are no UTF-8 (file names may hold any) become the replacement character.
inline std::string json_string(const std::string& text) {
  std::string quoted = "\"";
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    const auto byte = static_cast<uint8_t>(text[at]);
    if (length == 0) {
      quoted += "\\ufffd";
    } else if (byte == '"' || byte == '\\') {
      quoted += '\\';
      quoted += text[at];
    } else if (byte < 0x20 || byte == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
      quoted += escape;
    } else {
      quoted.append(text, at, length);
    }
    at += length == 0 ? 1 : length;
  }
  return quoted + "\"";
}

// One JSON object, written key by key.
class Object {
 public:
  Object& text(const char* key, const std::string& value) { return raw(key, json_string(value)); }

  Object& number(const char* key, double value) {
    char digits[40];
    std::snprintf(digits, sizeof digits, "%.6f", value);
    return raw(key, std::isfinite(value) ? digits : "null");
  }

  Object& integer(const char* key, int64_t value) { return raw(key, std::to_string(value)); }

  Object& integers(const char* key, const std::vector<int64_t>& values) {
    std::string list;
    for (const int64_t value : values) list += (list.empty() ? "" : ",") + std::to_string(value);
    return raw(key, "[" + list + "]");
  }

  Object& objects(const char* key, const std::vector<Object>& values) {
    std::string list;
    for (const Object& value : values) list += (list.empty() ? "" : ",") + value.str();
    return raw(key, "[" + list + "]");
  }

  Object& object(const char* key, const Object& value) { return raw(key, value.str()); }

  std::string str() const { return "{" + members_ + "}"; }

 private:
  Object& raw(const char* key, const std::string& json) {
    members_ += (members_.empty() ? "" : ",") + json_string(key) + ":" + json;
    return *this;
  }

  std::string members_;
};

inline Object event(const char* name) { return Object().text("event", name); }

}  // namespace handheld

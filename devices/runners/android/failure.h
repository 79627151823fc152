// What ends a runner: the stage that failed, and one line that says why.
#pragma once

#include <stdexcept>
#include <string>

namespace handheld {

struct Failure : std::runtime_error {
  Failure(std::string stage, const std::string& message)
      : std::runtime_error(message), stage(std::move(stage)) {}

  std::string stage;  // arguments, load, input, run, output, trace or memory
};

}  // namespace handheld

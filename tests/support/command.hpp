#pragma once
/// Runs a command and gives what it printed and how it ended, for tests of the command line.
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace calico::test {

struct Ran {
  int code = -1;       ///< exit status; 128 + signal when killed
  std::string output;  ///< stdout and stderr together
};

/// Blocks until it ends; `shell_text` goes to /bin/sh.
inline Ran run(const std::string& shell_text) {
  Ran out;
  FILE* pipe = popen((shell_text + " 2>&1").c_str(), "r");
  if (!pipe) return out;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) out.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return out;
}

}  // namespace calico::test

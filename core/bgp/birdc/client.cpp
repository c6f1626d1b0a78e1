#include "core/bgp/birdc/client.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <optional>
#include <string>
#include <utility>

namespace calico::bgp {

namespace {

constexpr int kAnswered = 0, kErrorAnswer = 1, kUsage = 2, kNoServer = 3;
constexpr std::size_t kMaxAnswerLine = 64 * 1024;

void help() {
  fmt::print(
      "usage: birdc [-s SOCKET] [-v] [COMMAND...]\n"
      "Asks the BGP speaker over its control socket (default {}).\n"
      "  -s SOCKET   another socket\n"
      "  -v          with BIRD's reply codes\n"
      "  -r          restricted: commands that change something are refused\n"
      "Looking (NAME may be a \"pattern\" with * and ?):\n"
      "  show status | show memory | show symbols [table|protocol|NAME] | show interfaces [summary]\n"
      "  show protocols [all] [NAME]\n"
      "  show route [all] [PREFIX | for ADDRESS] [protocol NAME | export NAME | noexport NAME]\n"
      "             [table master4|master6] [primary] [count | stats]\n"
      "Changing (NAME, a pattern, or all):\n"
      "  configure [check]           read the configuration again, as SIGHUP does, and say what changed;\n"
      "                              check: only read it\n"
      "  enable NAME                 let its session come up again\n"
      "  disable NAME [\"MESSAGE\"]   end its session and keep it down; the neighbor is told the message\n"
      "  restart NAME                end its session and begin a new one\n"
      "  reload [in|out] NAME        ask for its routes again, send it ours again, without touching the session\n"
      "  graceful shutdown [on|off]  before maintenance: neighbors move to other routes (RFC 8326)\n"
      "Without a command: reads commands from standard input, one a line.\n"
      "Exit code: 0 answered; 1 the answer holds a refusal (8xxx, 9xxx); 2 usage; 3 no server.\n",
      kBirdSocket);
}

class Session {
 public:
  explicit Session(bool verbose) : verbose_(verbose) {}
  ~Session() {
    if (fd_ >= 0) ::close(fd_);
  }
  bool open(const std::string& path) {
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    if (path.size() >= sizeof a.sun_path) {
      fmt::print(stderr, "birdc: {}: the path is too long\n", path);
      return false;
    }
    std::memcpy(a.sun_path, path.data(), path.size());
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd_ < 0 || ::connect(fd_, reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) {
      fmt::print(stderr, "birdc: {}: {}; is calico-node running with role compute or route-reflector?\n", path,
                 std::strerror(errno));
      return false;
    }
    return true;
  }
  /// Prints one answer; its last code (or one that says no, if there was one), or nullopt if the server went away.
  std::optional<int> answer(bool quiet) {
    int last = 0, worst = 0;
    for (;;) {
      auto line = read_line();
      if (!line) return std::nullopt;
      const auto is_digit = [&](std::size_t i) {
        return i < line->size() && std::isdigit(static_cast<unsigned char>((*line)[i])) != 0;
      };
      const bool coded = line->size() >= 5 && is_digit(0) && is_digit(1) && is_digit(2) && is_digit(3);
      if (coded) last = std::stoi(line->substr(0, 4));
      if (last >= 8000) worst = std::max(worst, last);
      const bool end = coded && (*line)[4] == ' ';
      const auto text = coded ? line->substr(5) : line->substr(line->empty() ? 0 : 1);
      // BIRD's client hides the bare end of a list.
      if (!quiet && !(end && last == 0 && text.empty() && !verbose_)) fmt::print("{}\n", verbose_ ? *line : text);
      if (end) return std::max(last, worst);
    }
  }
  bool send(std::string command) {
    command += '\n';
    for (std::size_t at = 0; at < command.size();) {
      const auto n = ::send(fd_, command.data() + at, command.size() - at, MSG_NOSIGNAL);
      if (n <= 0) return false;
      at += static_cast<std::size_t>(n);
    }
    return true;
  }

 private:
  std::optional<std::string> read_line() {
    for (;;) {
      if (const auto end = buffer_.find('\n', at_); end != std::string::npos) {
        std::string line = buffer_.substr(at_, end - at_);
        at_ = end + 1;
        return line;
      }
      buffer_.erase(0, std::exchange(at_, 0));
      if (buffer_.size() > kMaxAnswerLine) return std::nullopt;
      char chunk[16384];
      const auto n = ::read(fd_, chunk, sizeof chunk);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return std::nullopt;
      buffer_.append(chunk, static_cast<std::size_t>(n));
    }
  }

  bool verbose_;
  int fd_ = -1;
  std::string buffer_;
  std::size_t at_ = 0;
};

}  // namespace

int birdc_main(int argc, char** argv) {
  std::string path = kBirdSocket, command;
  bool verbose = false, restricted = false;
  int i = 1;
  for (; i < argc && argv[i][0] == '-'; ++i) {
    const std::string option = argv[i];
    if (option == "-h" || option == "--help") {
      help();
      return kAnswered;
    }
    if (option == "-v") {
      verbose = true;
    } else if (option == "-r") {
      restricted = true;
    } else if (option == "-s" && i + 1 < argc) {
      path = argv[++i];
    } else {
      fmt::print(stderr, "birdc: unknown option {}; see birdc --help\n", option);
      return kUsage;
    }
  }
  for (; i < argc; ++i) {
    const std::string word = argv[i];
    // The shell took the quotes of a text; the whole command as one word has none.
    const bool text = !command.empty() && word.find(' ') != std::string::npos && word.find('"') == std::string::npos;
    command += (command.empty() ? "" : " ") + (text ? '"' + word + '"' : word);
  }

  Session session(verbose);
  if (!session.open(path)) return kNoServer;
  const auto lost = [&] {
    fmt::print(stderr, "birdc: {}: the server closed the connection\n", path);
    return kNoServer;
  };
  if (!session.answer(false)) return lost();
  const auto ask = [&](const std::string& text) -> std::optional<int> {
    if (!session.send(text)) return std::nullopt;
    return session.answer(false);
  };
  int code = 0;
  if (restricted && !ask("restrict")) return lost();
  if (!command.empty()) {
    auto r = ask(command);
    if (!r) return lost();
    code = *r;
  } else {
    for (std::string line; std::getline(std::cin, line);) {
      if (line == "exit" || line == "quit") break;
      if (line.find_first_not_of(" \t") == std::string::npos) continue;
      auto r = ask(line);
      if (!r) return lost();
      code = *r;
    }
  }
  return code >= 8000 ? kErrorAnswer : kAnswered;
}

}  // namespace calico::bgp

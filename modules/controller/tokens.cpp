#include "modules/controller/tokens.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace calico::controller {

namespace {

constexpr std::size_t kMinToken = 16;
constexpr std::size_t kMaxToken = 256;
constexpr std::size_t kMaxFile = 1024 * 1024;

std::vector<std::string_view> words(std::string_view line) {
  std::vector<std::string_view> out;
  while (!line.empty()) {
    auto first = line.find_first_not_of(" \t\r");
    if (first == std::string_view::npos) break;
    line.remove_prefix(first);
    if (line.front() == '#' || line.front() == ';') break;
    auto end = std::min(line.find_first_of(" \t\r"), line.size());
    out.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
  return out;
}

bool equal(std::string_view secret, std::string_view given) {
  auto at = [](std::string_view s, std::size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0U; };
  volatile unsigned difference = secret.size() == given.size() ? 0U : 1U;
  for (std::size_t i = 0; i < kMaxToken; ++i) difference = difference | (at(secret, i) ^ at(given, i));
  return difference == 0;
}

}  // namespace

Result<Tokens> Tokens::parse(std::string_view text, const std::string& path) {
  Tokens out;
  int number = 0;
  while (!text.empty()) {
    auto end = text.find('\n');
    auto line = words(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    ++number;
    if (line.empty()) continue;
    Row row{std::string(line[0]), {}};
    if (row.token.size() < kMinToken || row.token.size() > kMaxToken)
      return fail(Errc::invalid, "{}:{}: the token has {} characters; accepted: {} to {}", path, number,
                  row.token.size(), kMinToken, kMaxToken);
    if (out.find(row.token)) return fail(Errc::invalid, "{}:{}: this token stands in the file already", path, number);
    Project project;
    for (std::size_t i = 1; i < line.size(); ++i) {
      if (line[i].starts_with("name="))
        project.name = line[i].substr(5);
      else if (line[i].starts_with("parent="))
        project.parent = line[i].substr(7);
      else if (line[i] == "admin" && (i > 1 || line.size() < 3 || line[2] != "admin"))
        row.caller.admin = true;
      else if (row.caller.project.empty() && line[i].size() <= 255)
        row.caller.project = line[i];
      else
        return fail(Errc::invalid, "{}:{}: word {} is not admin, name=… or parent=…", path, number, i + 1);
    }
    if (row.caller.project.empty()) {
      if (!row.caller.admin)
        return fail(Errc::invalid, "{}:{}: a project, or the word admin, is expected after the token", path, number);
      row.caller.project = kAdminProject;
    }
    if (!project.name.empty() || !project.parent.empty()) out.projects_[row.caller.project] = std::move(project);
    out.rows_.push_back(std::move(row));
  }
  if (out.rows_.empty()) return fail(Errc::invalid, "{}: no token in it: nobody could use the API", path);
  return out;
}

Result<Tokens> Tokens::read(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return fail_errno(errno, path);
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};
  struct stat st {};
  if (fstat(fd, &st) != 0) return fail_errno(errno, path);
  if (!S_ISREG(st.st_mode)) return fail(Errc::invalid, "{}: not a file", path);
  if ((st.st_mode & S_IROTH) != 0)
    return fail(Errc::no_permission, "{}: everybody on this host may read it; chmod o-r it", path);
  std::string text;
  std::array<char, 16384> buffer{};
  for (;;) {
    auto n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, path);
    if (n == 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(n));
    if (text.size() > kMaxFile) return fail(Errc::invalid, "{}: larger than {} bytes", path, kMaxFile);
  }
  return parse(text, path);
}

std::optional<Caller> Tokens::find(std::string_view token) const {
  if (token.size() > kMaxToken) return std::nullopt;
  const Row* found = nullptr;
  for (const auto& row : rows_) {
    if (equal(row.token, token)) found = &row;
  }
  if (!found) return std::nullopt;
  return found->caller;
}

}  // namespace calico::controller

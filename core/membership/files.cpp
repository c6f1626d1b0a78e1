#include "core/membership/files.hpp"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "core/http/certificates.hpp"
#include "core/membership/token.hpp"

namespace calico::membership {
namespace {

namespace fs = std::filesystem;

Status sync_dir(const std::string& dir) {
  const int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return fail_errno(errno, dir);
  const int err = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  if (err != 0) return fail_errno(err, dir);
  return {};
}

Status write_all(const std::string& folder, const std::vector<NewFile>& files) {
  for (const auto& f : files)
    if (auto s = http::write_file(folder + "/" + f.name, f.content, f.mode); !s) return s;
  return sync_dir(folder);
}

}  // namespace

Status make_private_dir(const std::string& dir) {
  std::error_code ec;
  const auto parent = fs::path(dir).parent_path();
  fs::create_directories(parent, ec);
  if (ec) return fail(Errc::no_permission, "{}: cannot be made: {}", parent.string(), ec.message());
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(errno, dir);
  struct stat st {};
  if (::lstat(dir.c_str(), &st) != 0) return fail_errno(errno, dir);
  if (!S_ISDIR(st.st_mode)) return fail(Errc::invalid, "{}: is not a directory; move it away", dir);
  if (st.st_uid != ::geteuid()) return fail(Errc::no_permission, "{}: belongs to another user; move it away", dir);
  if ((st.st_mode & 0777) != 0700 && ::chmod(dir.c_str(), 0700) != 0) return fail_errno(errno, dir);
  return {};
}

Status write_set(const std::string& dir, const std::string& link, const std::vector<NewFile>& files) {
  if (auto s = make_private_dir(dir); !s) return s;
  std::array<char, 8> random{};
  if (RAND_bytes(reinterpret_cast<unsigned char*>(random.data()), random.size()) != 1)
    return fail(Errc::internal, "{}: the system gives no randomness", dir);
  const std::string folder_name = link + "." + to_hex({random.data(), random.size()});
  const std::string folder = dir + "/" + folder_name;
  const std::string fresh = folder + ".link";
  std::error_code ignored;
  if (::mkdir(folder.c_str(), 0700) != 0) return fail_errno(errno, folder);
  auto done = write_all(folder, files);
  if (done) done = sync_dir(dir);
  if (done && ::symlink(folder_name.c_str(), fresh.c_str()) != 0) done = fail_errno(errno, fresh);
  if (done && ::rename(fresh.c_str(), (dir + "/" + link).c_str()) != 0) {
    done = fail_errno(errno, dir + "/" + link);
    ::unlink(fresh.c_str());
  }
  if (!done) {
    fs::remove_all(folder, ignored);
    return done;
  }
  if (auto s = sync_dir(dir); !s) return s;
  // Left by earlier sets, or by a crash.
  std::vector<fs::path> old;
  for (const auto& e : fs::directory_iterator(dir, ignored)) {
    const auto name = e.path().filename().string();
    if (name.starts_with(link + ".") && name != folder_name) old.push_back(e.path());
  }
  for (const auto& p : old) fs::remove_all(p, ignored);
  return {};
}

Result<std::string> read_small(const std::string& path, std::size_t max) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail_errno(errno, path);
  struct stat st {};
  std::string text;
  int err = ::fstat(fd, &st) != 0 ? errno : 0;
  const bool plain = err == 0 && S_ISREG(st.st_mode) && static_cast<std::size_t>(st.st_size) <= max;
  while (plain && err == 0 && text.size() <= max) {
    std::array<char, 4096> piece{};
    const auto n = ::read(fd, piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) err = errno;
    if (n <= 0) break;
    text.append(piece.data(), static_cast<std::size_t>(n));
  }
  ::close(fd);
  if (err != 0) return fail_errno(err, path);
  if (!plain || text.size() > max) return fail(Errc::invalid, "{}: not a plain file of at most {} bytes", path, max);
  return text;
}

}  // namespace calico::membership

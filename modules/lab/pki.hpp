#pragma once
/// The lab's throw-away certificate authority: one CA a lab, one certificate a node, usable by both ends of mutual TLS.
/// Thread: one. Owns: the CA's key in memory; it never reaches the disk. Errors: internal (OpenSSL), no_permission
/// (files).
#include <memory>
#include <string>
#include <vector>

#include "core/base/ip.hpp"

namespace calico::lab {

class Authority {
 public:
  /// Makes a new CA and writes `<dir>/ca.crt`.
  [[nodiscard]] static Result<Authority> create(const std::string& dir, const std::string& common_name);
  Authority(Authority&&) noexcept;
  Authority& operator=(Authority&&) noexcept;
  ~Authority();
  /// Writes `<dir>/node.crt`, `node.key` (0600) and a copy of `ca.crt`.
  [[nodiscard]] Status issue(const std::string& dir, const std::string& common_name, const std::vector<Ip>& addresses);

 private:
  struct Impl;
  explicit Authority(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::lab

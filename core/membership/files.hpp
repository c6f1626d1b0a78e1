#pragma once
/// Files that belong together, replaced together: a certificate, its key and its CA must never be read half old and
/// half new, also after a crash between two of them.
///
///   <state_dir>/pki/node            a symbolic link, replaced by one rename
///   <state_dir>/pki/node.3fe0c1…/   ca.crt node.crt node.key, complete before the link points here
///
/// The link's name is what the configuration names, so a new set needs no change of it. Earlier folders are removed.
///
/// Thread: any; blocks for the disk. Errors: those of the file system, with the path.
#include <string>
#include <vector>

#include "core/base/error.hpp"

namespace calico::membership {

struct NewFile {
  std::string name;
  std::string content;
  unsigned mode = 0600;
};

/// `dir` is made (0700) when it is not there. After this returned well the set is on disk.
[[nodiscard]] Status write_set(const std::string& dir, const std::string& link, const std::vector<NewFile>& files);
/// A file of at most `max` bytes. Errors: not_found, no_permission, invalid (larger, or no plain file).
[[nodiscard]] Result<std::string> read_small(const std::string& path, std::size_t max = 64 * 1024);
/// 0700, ours; made when it is not there. Errors: invalid (something else is in its place).
[[nodiscard]] Status make_private_dir(const std::string& dir);

}  // namespace calico::membership

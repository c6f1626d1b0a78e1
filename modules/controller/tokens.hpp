#pragma once
/// Who may use the API: a file of tokens, one a line,
///
///   TOKEN [PROJECT] [admin] [name=PROJECT-NAME] [parent=PARENT-ID]      ; or # begins a comment
///
/// sent by clients as X-Auth-Token. `admin` sees and changes everything, and without PROJECT its own things belong to
/// the project "admin"; others need a PROJECT. Name and parent become labels of the project's endpoints. The file must
/// not be readable by others. A token has 16 to 256 characters. Thread: any (immutable). Errors: no_permission,
/// not_found, invalid: one line with file and line number; a token never appears in it.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "modules/controller/input.hpp"
#include "modules/controller/translate.hpp"

namespace calico::controller {

/// Of administrators who name none, and of everybody where there are no tokens.
inline constexpr const char* kAdminProject = "admin";

class Tokens {
 public:
  [[nodiscard]] static Result<Tokens> read(const std::string& path);
  [[nodiscard]] static Result<Tokens> parse(std::string_view text, const std::string& path);

  /// Compares with every token, in a time that depends on none of them.
  std::optional<Caller> find(std::string_view token) const;
  const Projects& projects() const { return projects_; }
  std::size_t size() const { return rows_.size(); }

 private:
  struct Row {
    std::string token;
    Caller caller;
  };
  std::vector<Row> rows_;
  Projects projects_;
};

}  // namespace calico::controller

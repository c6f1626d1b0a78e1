#pragma once
/// Errors as values. Every function that can fail because of the outside world (peer, kernel, disk, user) returns
/// Result<T> or Status and is marked [[nodiscard]]; broken invariants are assertions; nothing below module/ throws
/// across its own boundary.
///
///   Result<int> parse(std::string_view s) {
///     if (s.empty()) return fail(Errc::invalid, "empty number");
///     ...
///   }
///   auto v = parse(text);
///   if (!v) return wrap(v.error(), "[bgp] hold_time");
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace calico {

/// Small and shared: what a caller may react to. Text for people is in Error::what.
enum class Errc : std::uint8_t {
  invalid,        ///< the input is wrong; trying again does not help
  not_found,      ///< the object is not there
  exists,         ///< the object is there already
  conflict,       ///< compare-and-swap lost, or two owners
  no_permission,  ///< EPERM/EACCES, 401/403
  busy,           ///< try again soon; state kept
  unavailable,    ///< peer, datastore or kernel facility not reachable now
  timeout,        ///< the deadline passed
  closed,         ///< the other side or the owner closed
  corrupt,        ///< stored data does not check
  exhausted,      ///< out of something (addresses, disk, queue)
  unsupported,    ///< this kernel, peer or build cannot
  canceled,       ///< we were told to stop
  compacted,      ///< the revision asked for is gone (datastore)
  internal,       ///< a bug of ours, reported instead of crashing
};

/// Short stable name ("not_found"), for logs and JSON.
[[nodiscard]] std::string_view to_string(Errc code);

struct Error {
  Errc code = Errc::internal;
  std::string what;  ///< what, where, what to do; one line
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail(Errc code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

/// Adds context on the way up: "context: what".
[[nodiscard]] inline tl::unexpected<Error> wrap(Error e, std::string_view context) {
  e.what = fmt::format("{}: {}", context, e.what);
  return tl::unexpected<Error>(std::move(e));
}

/// Text from outside in an error line: cut to `most` bytes (then with "…"), anything but printable ASCII as '?'.
[[nodiscard]] std::string shown(std::string_view text, std::size_t most = 100);
/// shown() in single quotes.
[[nodiscard]] std::string quoted(std::string_view text);

/// Translates errno once, at the border to the kernel.
[[nodiscard]] Errc errc_of_errno(int err);
/// fail() with the text of errno appended: "what: Permission denied".
[[nodiscard]] tl::unexpected<Error> fail_errno(int err, std::string_view what);

}  // namespace calico

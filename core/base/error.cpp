#include "core/base/error.hpp"

#include <cerrno>
#include <system_error>

namespace calico {

std::string_view to_string(Errc code) {
  switch (code) {
    case Errc::invalid:
      return "invalid";
    case Errc::not_found:
      return "not_found";
    case Errc::exists:
      return "exists";
    case Errc::conflict:
      return "conflict";
    case Errc::no_permission:
      return "no_permission";
    case Errc::busy:
      return "busy";
    case Errc::unavailable:
      return "unavailable";
    case Errc::timeout:
      return "timeout";
    case Errc::closed:
      return "closed";
    case Errc::corrupt:
      return "corrupt";
    case Errc::exhausted:
      return "exhausted";
    case Errc::unsupported:
      return "unsupported";
    case Errc::canceled:
      return "canceled";
    case Errc::compacted:
      return "compacted";
    case Errc::internal:
      return "internal";
  }
  return "unknown";
}

Errc errc_of_errno(int err) {
  switch (err) {
    case EPERM:
    case EACCES:
      return Errc::no_permission;
    case ENOENT:
    case ESRCH:
    case ENODEV:
    case ENXIO:
      return Errc::not_found;
    case EEXIST:
      return Errc::exists;
    case EBUSY:
    case EAGAIN:
    case ENOBUFS:
    case EINTR:
      return Errc::busy;
    case EINVAL:
    case ERANGE:
    case E2BIG:
      return Errc::invalid;
    case EOPNOTSUPP:
    case EAFNOSUPPORT:
    case EPROTONOSUPPORT:
    case ENOSYS:
      return Errc::unsupported;
    case ETIMEDOUT:
      return Errc::timeout;
    case ECONNREFUSED:
    case ECONNRESET:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
      return Errc::unavailable;
    case ENOSPC:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return Errc::exhausted;
    case ECANCELED:
      return Errc::canceled;
    default:
      return Errc::internal;
  }
}

std::string shown(std::string_view text, std::size_t most) {
  std::string out;
  for (const char c : text.substr(0, most)) out += c >= 0x20 && c < 0x7f ? c : '?';
  return text.size() > most ? out + "…" : out;
}

std::string quoted(std::string_view text) { return fmt::format("'{}'", shown(text)); }

tl::unexpected<Error> fail_errno(int err, std::string_view what) {
  return fail(errc_of_errno(err), "{}: {}", what, std::generic_category().message(err));
}

}  // namespace calico

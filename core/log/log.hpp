#pragma once
/// Structured log lines: a stable id, then key and value pairs.
///
///   log_.warn("bgp.hold_expired", "peer", peer, "state", state);
///
/// text: `2026-01-01T00:00:00.000Z warn  bgp.hold_expired peer=10.0.0.1 state=Established`; json: one object a line.
/// Thread: any. error = someone must act; warn = we went on; info = life cycle and sessions; debug = the rest.
/// Core floors below module/ log nothing above debug: they return errors and the module says it once.
/// Never pass a secret; text from outside is quoted and control characters are escaped.
#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/base/error.hpp"

namespace calico::log {

enum class Level { debug, info, warn, error };
enum class Format { text, json };

/// Process-wide, called once from main (and by tests that want to be quiet). Output: stderr.
void init(Level level, Format format);
/// "debug", "info", "warn", "error". Errors: invalid.
[[nodiscard]] Result<Level> parse_level(std::string_view text);

struct Field {
  std::string_view key;
  std::string value;
};

/// True if lines of this level are written; lets callers skip costly arguments.
bool enabled(Level level);
void write(Level level, std::string_view id, std::initializer_list<Field> fields);

namespace detail {
template <class T>
std::string text(const T& v) {
  return fmt::format("{}", v);
}
template <class... Args>
void line(Level level, std::string_view id, const Args&... args);
template <std::size_t... I, class Tuple>
void expand(Level level, std::string_view id, std::index_sequence<I...>, const Tuple& t) {
  write(level, id, {Field{std::get<2 * I>(t), text(std::get<2 * I + 1>(t))}...});
}
template <class... Args>
void line(Level level, std::string_view id, const Args&... args) {
  static_assert(sizeof...(Args) % 2 == 0, "pairs of key and value");
  if (!enabled(level)) return;
  expand(level, id, std::make_index_sequence<sizeof...(Args) / 2>{}, std::forward_as_tuple(args...));
}
}  // namespace detail

template <class... Args>
void debug(std::string_view id, const Args&... kv) {
  detail::line(Level::debug, id, kv...);
}
template <class... Args>
void info(std::string_view id, const Args&... kv) {
  detail::line(Level::info, id, kv...);
}
template <class... Args>
void warn(std::string_view id, const Args&... kv) {
  detail::line(Level::warn, id, kv...);
}
template <class... Args>
void error(std::string_view id, const Args&... kv) {
  detail::line(Level::error, id, kv...);
}

}  // namespace calico::log

#pragma once
/// Private to core/model: what the readers of resources share, on top of json.hpp.
///
///   return read_document<Subnet>(text, [](const Object& root, Subnet& s) { s.gateway_ip = read_with(root, …,
///   Ip::parse); });
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/base/ids.hpp"
#include "core/model/json.hpp"

namespace calico::model::detail {

/// Decimal, all of the text.
template <class T>
std::optional<T> number_of(std::string_view text) {
  T v{};
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (ec != std::errc{} || end != text.data() + text.size() || text.empty()) return {};
  return v;
}

/// "64512" or "1.10".
inline std::optional<Asn> as_number_of(std::string_view text) {
  if (const auto n = number_of<std::uint32_t>(text)) return Asn{*n};
  const auto dot = text.find('.');
  if (dot == std::string_view::npos) return {};
  const auto high = number_of<std::uint16_t>(text.substr(0, dot));
  const auto low = number_of<std::uint16_t>(text.substr(dot + 1));
  if (!high || !low) return {};
  return Asn{static_cast<std::uint32_t>(*high) << 16U | *low};
}

/// Reads one text with `parse`; a failure becomes the document's fault.
template <class F>
auto read_value(const Object& o, std::string_view path, std::string_view text, F&& parse)
    -> std::optional<typename std::invoke_result_t<F, std::string_view>::value_type> {
  auto r = parse(text);
  if (!r) return o.bad(path, r.error().what), std::nullopt;
  return *r;
}

/// The same for a member; absent and "" are nothing.
template <class F>
auto read_with(const Object& o, std::string_view key, F&& parse)
    -> std::optional<typename std::invoke_result_t<F, std::string_view>::value_type> {
  const auto text = o.maybe_text(key);
  if (!text || text->empty()) return {};
  return read_value(o, o.at(key), *text, parse);
}

/// Parses the document, runs `f(root, out)`, and returns `out` unless something was wrong.
template <class T, class F>
Result<T> read_document(std::string_view text, F&& f) {
  auto v = parse_object(text);
  if (!v) return tl::unexpected(v.error());
  std::string error;
  T out;
  f(Object(&v->as_object(), "", error), out);
  if (!error.empty()) return fail(Errc::invalid, "{}", error);
  return out;
}

}  // namespace calico::model::detail

#include "core/model/json.hpp"

#include <cmath>

namespace calico::model::detail {

Result<json::value> parse_object(std::string_view text) {
  if (text.size() > kMaxJson) return fail(Errc::invalid, "JSON of {} bytes: at most {}", text.size(), kMaxJson);
  json::error_code ec;
  json::parse_options options;
  options.max_depth = 32;
  auto v = json::parse(json::string_view(text.data(), text.size()), ec, {}, options);
  if (ec) return fail(Errc::invalid, "not JSON: {}", ec.message());
  if (!v.is_object()) return fail(Errc::invalid, "need a JSON object");
  return v;
}

void Object::bad(std::string_view path, std::string_view what) const {
  if (!error_->empty()) return;
  *error_ = fmt::format("{}: {}", path, what);
  for (auto& c : *error_)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
}

const json::value* Object::find(std::string_view key) const {
  if (!o_) return nullptr;
  const auto* v = o_->if_contains(json::string_view(key.data(), key.size()));
  return v && !v->is_null() ? v : nullptr;
}

std::optional<std::string> Object::maybe_text(std::string_view key) const {
  const auto* v = find(key);
  if (!v) return {};
  if (!v->is_string()) return bad(at(key), "need a string"), std::nullopt;
  return std::string(v->as_string().data(), v->as_string().size());
}

std::string Object::text(std::string_view key) const { return maybe_text(key).value_or(""); }

std::optional<bool> Object::boolean(std::string_view key) const {
  const auto* v = find(key);
  if (!v) return {};
  if (!v->is_bool()) return bad(at(key), "need true or false"), std::nullopt;
  return v->as_bool();
}

std::optional<double> Object::number(std::string_view key) const {
  const auto* v = find(key);
  if (!v) return {};
  if (v->is_int64()) return static_cast<double>(v->as_int64());
  if (v->is_uint64()) return static_cast<double>(v->as_uint64());
  if (v->is_double() && std::isfinite(v->as_double())) return v->as_double();
  return bad(at(key), "need a number"), std::nullopt;
}

std::optional<std::int64_t> Object::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const auto n = number(key);
  if (!n) return {};
  if (*n != std::floor(*n) || *n < static_cast<double>(low) || *n > static_cast<double>(high))
    return bad(at(key), fmt::format("need a whole number from {} to {}", low, high)), std::nullopt;
  return static_cast<std::int64_t>(*n);
}

Object Object::object(std::string_view key) const {
  const auto* v = find(key);
  if (v && !v->is_object()) bad(at(key), "need an object");
  return {v && v->is_object() ? &v->as_object() : nullptr, at(key), *error_};
}

const json::array* Object::array(std::string_view key) const {
  const auto* v = find(key);
  if (!v) return nullptr;
  if (!v->is_array()) return bad(at(key), "need a list"), nullptr;
  return &v->as_array();
}

std::vector<std::string> Object::texts(std::string_view key) const {
  std::vector<std::string> out;
  each(key, [&](const json::value& v, const std::string& path) {
    if (!v.is_string()) return bad(path, "need a string");
    out.emplace_back(v.as_string().data(), v.as_string().size());
  });
  return out;
}

}  // namespace calico::model::detail

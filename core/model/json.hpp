#pragma once
/// Private to core/model: lenient reading of JSON with the path of what is wrong. The first fault wins; after it every
/// getter returns its default, and the caller looks once at the end.
#include <boost/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"

namespace calico::model::detail {

namespace json = boost::json;

inline constexpr std::size_t kMaxJson = 1U << 20U;

/// One object at 1 MiB and 32 levels at most. Errors: invalid.
[[nodiscard]] Result<json::value> parse_object(std::string_view text);

class Object {
 public:
  /// `error` is shared by all objects of one document.
  Object(const json::object* o, std::string path, std::string& error) : o_(o), path_(std::move(path)), error_(&error) {}

  /// Null and absent are the same.
  const json::value* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  std::string text(std::string_view key) const;
  std::optional<std::string> maybe_text(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<std::int64_t> integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  /// Empty (all absent) when the key is.
  Object object(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;
  /// f(element, path)
  template <class F>
  void each(std::string_view key, F&& f) const {
    const auto* a = array(key);
    if (!a) return;
    std::size_t i = 0;
    for (const auto& v : *a) f(v, fmt::format("{}[{}]", at(key), i++));
  }
  template <class F>
  void each_object(std::string_view key, F&& f) const {
    each(key, [&](const json::value& v, std::string path) {
      if (!v.is_object()) return bad(path, "need an object");
      f(Object(&v.as_object(), std::move(path), *error_));
    });
  }
  template <class F>
  void each_member(F&& f) const {
    if (o_)
      for (const auto& kv : *o_) f(std::string_view(kv.key()), kv.value());
  }
  std::string at(std::string_view key) const {
    return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  }
  const std::string& path() const { return path_; }
  /// Keeps the first fault, as one line: a key may hold anything, and a parser of base may quote what it was given.
  void bad(std::string_view path, std::string_view what) const;
  bool ok() const { return error_->empty(); }

 private:
  const json::array* array(std::string_view key) const;
  const json::object* o_;
  std::string path_;
  std::string* error_;
};

}  // namespace calico::model::detail

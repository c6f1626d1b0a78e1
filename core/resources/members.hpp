#pragma once
/// Private to core/resources: members of an object that may not be there. Thread: any, pure.
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <string_view>

namespace calico::resources {

/// null when there is none.
inline const boost::json::value& at(const boost::json::object& o, std::string_view key) {
  static const boost::json::value none;
  const auto* v = o.if_contains(boost::json::string_view(key.data(), key.size()));
  return v ? *v : none;
}
/// An empty object when there is none.
inline const boost::json::object& object_at(const boost::json::object& o, std::string_view key) {
  static const boost::json::object none;
  const auto* v = at(o, key).if_object();
  return v ? *v : none;
}
/// "" when there is no text.
inline std::string text_at(const boost::json::object& o, std::string_view key) {
  const auto* s = at(o, key).if_string();
  return s ? std::string(s->data(), s->size()) : std::string();
}

}  // namespace calico::resources

// JSON values as YAML and as indented JSON, and when two of them are the same.
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "core/resources/scalar.hpp"
#include "core/resources/yaml.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;

std::string_view sv(const json::string& s) { return {s.data(), s.size()}; }

/// JSON's escapes, which are YAML's too; what is not printable in every terminal is escaped as well.
std::string quoted(std::string_view s) {
  std::string out = "\"";
  for (std::size_t i = 0; i < s.size();) {
    const auto c = static_cast<unsigned char>(s[i]);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += s[i];
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c < 0x20 || c == 0x7f) {
      out += fmt::format("\\u{:04x}", c);
    } else if (c >= 0x80) {
      const auto n = utf8_length(s.substr(i));
      const auto piece = s.substr(i, std::max<std::size_t>(n, 1));
      // C1 controls and the line separators that YAML 1.1 ends lines at.
      if (n == 2 && c == 0xc2 && static_cast<unsigned char>(piece[1]) < 0xa0)
        out += fmt::format("\\u{:04x}", static_cast<unsigned char>(piece[1]));
      else if (piece == "\xe2\x80\xa8" || piece == "\xe2\x80\xa9")
        out += piece == "\xe2\x80\xa8" ? "\\u2028" : "\\u2029";
      else if (piece == "\xef\xbb\xbf")
        out += "\\ufeff";
      else if (n == 0)
        out += "\\ufffd";
      else
        out += piece;
      i += piece.size();
      continue;
    } else {
      out += s[i];
    }
    ++i;
  }
  return out + "\"";
}

std::string number(double d) {
  if (!std::isfinite(d)) return "null";
  auto text = fmt::format("{}", d);
  // 1.0 stays a number with a point, so that reading it gives what was written.
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string scalar(const json::value& v, bool plain) {
  switch (v.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return v.get_bool() ? "true" : "false";
    case json::kind::int64:
      return fmt::format("{}", v.get_int64());
    case json::kind::uint64:
      return fmt::format("{}", v.get_uint64());
    case json::kind::double_:
      return number(v.get_double());
    case json::kind::string: {
      const auto text = sv(v.get_string());
      return plain && is_plain_text(text) ? std::string(text) : quoted(text);
    }
    case json::kind::array:
      return "[]";
    case json::kind::object:
      return "{}";
  }
  return "null";
}

bool is_block(const json::value& v) {
  return (v.is_object() && !v.get_object().empty()) || (v.is_array() && !v.get_array().empty());
}

/// The lines of `v`; the cursor stands where the first one begins (after "- ", or at `indent`).
void write_yaml(std::string& out, const json::value& v, std::size_t indent) {
  bool first = true;
  const auto start = [&] {
    if (!first) out.append(indent, ' ');
    first = false;
  };
  if (const auto* o = v.if_object(); o && !o->empty()) {
    for (const auto& m : *o) {
      start();
      const std::string_view key(m.key().data(), m.key().size());
      out += is_plain_text(key) ? std::string(key) : quoted(key);
      out += ':';
      if (!is_block(m.value())) {
        out += ' ' + scalar(m.value(), true) + '\n';
      } else {
        // The elements of a member's list stand below its key, as calicoctl and kubectl write them.
        const auto deeper = indent + (m.value().is_array() ? 0 : 2);
        out += '\n';
        out.append(deeper, ' ');
        write_yaml(out, m.value(), deeper);
      }
    }
  } else if (const auto* a = v.if_array(); a && !a->empty()) {
    for (const auto& e : *a) {
      start();
      out += "- ";
      if (is_block(e))
        write_yaml(out, e, indent + 2);
      else
        out += scalar(e, true) + '\n';
    }
  } else {
    out += scalar(v, true) + '\n';
  }
}

void write_json(std::string& out, const json::value& v, std::size_t indent) {
  const auto line = [&](std::size_t n) {
    out += '\n';
    out.append(n, ' ');
  };
  const char* between = "";
  if (const auto* o = v.if_object(); o && !o->empty()) {
    out += '{';
    for (const auto& m : *o) {
      out += between;
      between = ",";
      line(indent + 2);
      out += quoted({m.key().data(), m.key().size()}) + ": ";
      write_json(out, m.value(), indent + 2);
    }
    line(indent);
    out += '}';
  } else if (const auto* a = v.if_array(); a && !a->empty()) {
    out += '[';
    for (const auto& e : *a) {
      out += between;
      between = ",";
      line(indent + 2);
      write_json(out, e, indent + 2);
    }
    line(indent);
    out += ']';
  } else {
    out += scalar(v, false);
  }
}

std::size_t members(const json::object& o) {
  return static_cast<std::size_t>(
      std::count_if(o.begin(), o.end(), [](const auto& m) { return !m.value().is_null(); }));
}

}  // namespace

std::string to_yaml(const json::value& v) {
  std::string out;
  write_yaml(out, v, 0);
  return out;
}

std::string to_pretty_json(const json::value& v) {
  std::string out;
  write_json(out, v, 0);
  return out + "\n";
}

bool same_value(const json::value& a, const json::value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_double() || b.is_double()) return a.to_number<double>() == b.to_number<double>();
    if (a.is_uint64() || b.is_uint64())
      return (a.is_uint64() || a.get_int64() >= 0) && (b.is_uint64() || b.get_int64() >= 0) &&
             a.to_number<std::uint64_t>() == b.to_number<std::uint64_t>();
    return a.get_int64() == b.get_int64();
  }
  if (a.kind() != b.kind()) return false;
  if (const auto* x = a.if_object()) {
    const auto& y = b.get_object();
    if (members(*x) != members(y)) return false;
    return std::all_of(x->begin(), x->end(), [&](const auto& m) {
      if (m.value().is_null()) return true;
      const auto* other = y.if_contains(m.key());
      return other && same_value(m.value(), *other);
    });
  }
  if (const auto* x = a.if_array()) {
    const auto& y = b.get_array();
    return std::equal(x->begin(), x->end(), y.begin(), y.end(), same_value);
  }
  return a == b;
}

}  // namespace calico::resources

#include "core/resources/yaml.hpp"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <istream>
#include <map>
#include <optional>
#include <streambuf>

#include "core/resources/scalar.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxValues = 1000000, kMaxDocuments = 10000, kMaxCopied = 1U << 20U, kMaxOpen = 4096;

/// Leaves the parser of yaml-cpp, which knows no other way out; caught in read_yaml().
struct Refused {
  int line;
  std::string what;
};

[[noreturn]] void refuse(int line, std::string what) { throw Refused{line, std::move(what)}; }

/// yaml-cpp counts from 0, and has no mark for some things.
int line_at(const YAML::Mark& mark) { return mark.is_null() ? 1 : mark.line + 1; }

/// yaml-cpp makes the bytes 0x85 and 0xa0 of the escapes \N and \_, which are no UTF-8.
void check_text(int line, std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto n = utf8_length(text.substr(i));
    if (n == 0) refuse(line, "the escapes \\N and \\_ are not read: write \\u0085 and \\u00a0");
    i += n;
  }
}

json::value value_of_scalar(int line, const std::string& tag, const std::string& text) {
  constexpr std::string_view kStr = "tag:yaml.org,2002:str";
  if (tag == "!" || tag == kStr) return json::value(text);
  if (!tag.empty() && tag != "?") refuse(line, fmt::format("the tag {} is not read: remove it", quoted(tag)));
  auto v = plain_scalar(text);
  if (!v) refuse(line, std::move(v.error().what));
  return std::move(*v);
}

/// Builds the values of one document and refuses what is beyond the bounds while it is read.
class Builder final : public YAML::EventHandler {
 public:
  YamlDocument document;
  bool any = false;

  explicit Builder(std::size_t& values) : values_(values) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { scalar(line_at(mark), nullptr, 0, anchor); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    const int line = line_at(mark);
    check_text(line, text);
    if (awaits_key()) return key(line, tag, anchor, text);
    scalar(line, value_of_scalar(line, tag, text), text.size(), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const int line = line_at(mark);
    if (awaits_key()) refuse(line, "an alias is no key");
    const auto it = anchors_.find(anchor);
    if (it == anchors_.end()) refuse(line, "an alias inside what it names");
    copied_ += it->second.bytes;
    if (copied_ > kMaxCopied) refuse(line, "aliases repeat more than 1 MiB: write fewer, or write it out");
    const auto at = begin(line);
    count(line, it->second.values - 1);
    document.lines.resize(document.lines.size() + it->second.values - 1, static_cast<std::uint32_t>(at));
    bytes_ += it->second.bytes;
    put(it->second.value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(line_at(mark), tag, "tag:yaml.org,2002:seq", anchor, json::array());
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(line_at(mark), tag, "tag:yaml.org,2002:map", anchor, json::object());
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    json::value value;
    YAML::anchor_t anchor = 0;
    std::size_t bytes_before = 0, values_before = 0;
    bool has_key = false;
    std::string key;
    int key_line = 0;
  };
  struct Anchored {
    json::value value;
    std::size_t bytes = 0, values = 0;
  };

  bool awaits_key() const { return !stack_.empty() && stack_.back().value.is_object() && !stack_.back().has_key; }

  void key(int line, const std::string& tag, YAML::anchor_t anchor, const std::string& text) {
    auto& top = stack_.back();
    if (anchor != 0) refuse(line, "an anchor at a key is not read");
    if (!tag.empty() && tag != "?" && tag != "!" && tag != "tag:yaml.org,2002:str")
      refuse(line, fmt::format("the tag {} is not read: remove it", quoted(tag)));
    if (text == "<<" && tag == "?") refuse(line, "the merge key << is not read: write the members out");
    if (top.value.get_object().contains(text)) refuse(line, fmt::format("the key {} is given twice", quoted(text)));
    bytes_ += text.size();
    top.key = text;
    top.key_line = line;
    top.has_key = true;
  }

  void count(int line, std::size_t more) {
    values_ += more;
    if (values_ > kMaxValues) refuse(line, fmt::format("more than {} values", kMaxValues));
  }

  /// A value begins: counts it and files its line.
  int begin(int line) {
    if (!stack_.empty() && stack_.back().has_key) line = stack_.back().key_line;
    count(line, 1);
    bytes_ += 16;
    document.lines.push_back(static_cast<std::uint32_t>(line));
    any = true;
    return line;
  }

  void scalar(int line, json::value v, std::size_t bytes, YAML::anchor_t anchor) {
    if (awaits_key()) refuse(line, "a key must be text");
    begin(line);
    bytes_ += bytes;
    if (anchor != 0) keep(line, anchor, v, bytes + 16, 1);
    put(std::move(v));
  }

  void open(int line, const std::string& tag, std::string_view own_tag, YAML::anchor_t anchor, json::value v) {
    if (awaits_key()) refuse(line, "a key must be text");
    if (!tag.empty() && tag != "?" && tag != "!" && tag != own_tag)
      refuse(line, fmt::format("the tag {} is not read: remove it", quoted(tag)));
    if (stack_.size() >= kMaxYamlDepth) refuse(line, fmt::format("more than {} levels", kMaxYamlDepth));
    const auto bytes = bytes_, values = values_;
    begin(line);
    stack_.push_back({std::move(v), anchor, bytes, values, false, {}, line});
  }

  void close() {
    Frame top = std::move(stack_.back());
    stack_.pop_back();
    if (top.anchor != 0)
      keep(top.key_line, top.anchor, top.value, bytes_ - top.bytes_before, values_ - top.values_before);
    put(std::move(top.value));
  }

  void keep(int line, YAML::anchor_t anchor, const json::value& v, std::size_t bytes, std::size_t values) {
    anchored_ += bytes;
    if (anchored_ > kMaxCopied) refuse(line, "more than 1 MiB under anchors");
    anchors_[anchor] = {v, bytes, values};
  }

  void put(json::value v) {
    if (stack_.empty()) {
      document.value = std::move(v);
      return;
    }
    auto& top = stack_.back();
    if (auto* list = top.value.if_array()) {
      list->push_back(std::move(v));
      return;
    }
    top.value.get_object()[top.key] = std::move(v);
    top.has_key = false;
  }

  std::size_t& values_;
  std::size_t bytes_ = 0, copied_ = 0, anchored_ = 0;
  std::vector<Frame> stack_;
  std::map<YAML::anchor_t, Anchored> anchors_;
};

/// A stream over bytes that are not copied.
class Bytes final : public std::streambuf {
 public:
  explicit Bytes(std::string_view text) {
    auto* p = const_cast<char*>(text.data());  // a get area is never written to
    setg(p, p, p + text.size());
  }
};

std::size_t line_number(std::string_view text, std::size_t at) {
  return 1 + static_cast<std::size_t>(
                 std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(std::min(at, text.size())), '\n'));
}

/// What yaml-cpp would replace or stumble over in silence: other encodings, control characters (it ends a file at
/// 0x04).
Status check_bytes(std::string_view text) {
  if (text.size() > kMaxYaml)
    return fail(Errc::invalid, "line 1: {} bytes: at most {} are read", text.size(), kMaxYaml);
  // yaml-cpp's scanner looks for the end of what may be a key before its parser counts a level: 8 MiB of '{' would be
  // 2 GiB of tokens. Brackets in texts are counted too; nobody writes so many of them without their other halves.
  std::size_t open = 0;
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '{' || c == '[') {
      if (++open > kMaxOpen)
        return fail(Errc::invalid, "line {}: more than {} brackets are open here, levels are at most {}",
                    line_number(text, i), kMaxOpen, kMaxYamlDepth);
    } else if ((c == '}' || c == ']') && open > 0) {
      --open;
    }
    if (c >= 0x80) {
      const auto n = utf8_length(text.substr(i));
      if (n == 0) return fail(Errc::invalid, "line {}: byte 0x{:02x} is not UTF-8", line_number(text, i), c);
      i += n;
      continue;
    }
    if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f)
      return fail(Errc::invalid, "line {}: the control character 0x{:02x} cannot be read", line_number(text, i), c);
    ++i;
  }
  return {};
}

}  // namespace

Result<std::vector<YamlDocument>> read_yaml(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (auto ok = check_bytes(text); !ok) return tl::unexpected(ok.error());
  std::vector<YamlDocument> out;
  std::size_t values = 0;
  try {
    Bytes bytes(text);
    std::istream in(&bytes);
    YAML::Parser parser(in);
    for (;;) {
      Builder builder(values);
      if (!parser.HandleNextDocument(builder)) return out;
      if (out.size() >= kMaxDocuments)
        refuse(builder.document.lines.empty() ? 1 : static_cast<int>(builder.document.lines.front()),
               fmt::format("more than {} documents", kMaxDocuments));
      if (!builder.any) builder.document.lines.push_back(1);
      out.push_back(std::move(builder.document));
    }
  } catch (const Refused& r) {
    return fail(Errc::invalid, "line {}: {}", r.line, r.what);
  } catch (const YAML::Exception& e) {
    const int line = line_at(e.mark);
    // The parser sees a tab as the begin of text; people see white space.
    std::size_t begin = 0;
    for (int n = 1; n < line && begin != std::string_view::npos; ++n)
      if (begin = text.find('\n', begin); begin != std::string_view::npos) ++begin;
    const auto here =
        begin == std::string_view::npos ? std::string_view() : text.substr(begin, text.find('\n', begin) - begin);
    const auto first = here.find_first_not_of(' ');
    if (first != std::string_view::npos && here[first] == '\t')
      return fail(Errc::invalid, "line {}: a tab in the indentation: YAML takes spaces only", line);
    return fail(Errc::invalid, "line {}: not YAML: {}", line, shown(e.msg));
  } catch (const std::exception& e) {
    return fail(Errc::invalid, "line 1: not YAML: {}", shown(e.what()));
  }
}

namespace {

std::size_t count_of(const json::value& v) {
  std::size_t n = 1;
  if (const auto* o = v.if_object())
    for (const auto& m : *o) n += count_of(m.value());
  if (const auto* a = v.if_array())
    for (const auto& e : *a) n += count_of(e);
  return n;
}

}  // namespace

std::uint32_t line_of(const YamlDocument& d, std::string_view path) {
  const json::value* v = &d.value;
  std::size_t at = 0;
  const auto here = [&] { return at < d.lines.size() ? d.lines[at] : 1; };
  while (!path.empty()) {
    if (path.front() == '.') path.remove_prefix(1);
    const json::value* next = nullptr;
    std::size_t index = at + 1;
    if (const auto* a = v->if_array()) {
      std::size_t n = 0;
      const auto [end, ec] =
          std::from_chars(path.data() + (path.starts_with('[') ? 1 : 0), path.data() + path.size(), n);
      if (ec != std::errc{} || n >= a->size() || !path.starts_with('[')) return here();
      for (std::size_t i = 0; i < n; ++i) index += count_of((*a)[i]);
      next = &(*a)[n];
      const auto close = path.find(']');
      path.remove_prefix(close == std::string_view::npos ? path.size() : close + 1);
    } else if (const auto* o = v->if_object()) {
      // Names of labels have dots: the longest member that the path goes on with.
      std::size_t before = index, length = 0;
      for (const auto& m : *o) {
        const std::string_view name(m.key().data(), m.key().size());
        const bool fits = path.starts_with(name) &&
                          (path.size() == name.size() || path[name.size()] == '.' || path[name.size()] == '[');
        if (fits && (!next || name.size() > length)) {
          next = &m.value();
          index = before;
          length = name.size();
        }
        before += count_of(m.value());
      }
      if (!next) return here();
      path.remove_prefix(length);
    } else {
      return here();
    }
    v = next;
    at = index;
  }
  return here();
}

}  // namespace calico::resources

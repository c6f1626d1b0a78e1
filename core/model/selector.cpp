#include "core/model/selector.hpp"

#include <algorithm>
#include <set>

namespace calico::model {

enum class Kind : std::uint8_t {
  all,
  global,
  has,
  eq,
  ne,
  in,
  not_in,
  contains,
  starts_with,
  ends_with,
  not_,
  and_,
  or_
};

struct Selector::Node {
  Kind kind = Kind::all;
  std::string label;
  std::vector<std::string> values;  // sorted and unique for in / not_in
  std::vector<std::shared_ptr<const Node>> children;
};

namespace {

using Node = Selector::Node;
using NodePtr = std::shared_ptr<const Node>;

constexpr std::size_t kMaxText = 8192;
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxLabel = 512;

NodePtr leaf(Kind kind, std::string label = {}, std::vector<std::string> values = {}) {
  auto n = std::make_shared<Node>();
  n->kind = kind;
  n->label = std::move(label);
  n->values = std::move(values);
  return n;
}
NodePtr branch(Kind kind, std::vector<NodePtr> children) {
  if (kind == Kind::not_ && children.front()->kind == Kind::not_) return children.front()->children.front();
  if (children.size() == 1 && kind != Kind::not_) return children.front();
  auto n = std::make_shared<Node>();
  n->kind = kind;
  n->children = std::move(children);
  return n;
}

class Parser {
 public:
  Parser(std::string_view text, std::string_view prefix) : text_(text), prefix_(prefix) {}

  Result<NodePtr> parse() {
    if (text_.size() > kMaxText) return fail(Errc::invalid, "selector of {} bytes: at most {}", text_.size(), kMaxText);
    space();
    if (at_ == text_.size()) return leaf(Kind::all);
    auto n = parse_or(0);
    if (n && at_ != text_.size()) n = nullptr, expected("'&&', '||' or the end");
    if (!n) return tl::unexpected(Error{Errc::invalid, error_});
    return n;
  }

 private:
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }
  NodePtr expected(std::string_view what) {
    if (error_.empty()) error_ = fmt::format("selector, character {}: expected {}", at_ + 1, what);
    return nullptr;
  }
  /// Eats `token` and the white space after it.
  bool eat(std::string_view token) {
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    space();
    return true;
  }

  NodePtr parse_or(int depth) { return chain(Kind::or_, "||", depth); }

  NodePtr chain(Kind kind, std::string_view op, int depth) {
    std::vector<NodePtr> parts;
    do {
      auto n = kind == Kind::or_ ? chain(Kind::and_, "&&", depth) : parse_unary(depth);
      if (!n) return nullptr;
      parts.push_back(std::move(n));
    } while (eat(op));
    return branch(kind, std::move(parts));
  }

  NodePtr parse_unary(int depth) {
    bool negated = false;
    while (eat("!")) negated = !negated;
    auto n = parse_primary(depth);
    if (n && negated) n = branch(Kind::not_, {n});
    return n;
  }

  NodePtr parse_primary(int depth) {
    if (depth >= kMaxDepth) return expected(fmt::format("at most {} levels of parentheses", kMaxDepth));
    if (eat("(")) {
      auto n = parse_or(depth + 1);
      if (n && !eat(")")) return expected("')'");
      return n;
    }
    const auto name = word();
    if (name.empty()) return expected("a label, a function or '('");
    // "has", "all" and "global" are labels too when no '(' follows.
    if ((name == "has" || name == "all" || name == "global") && at_ < text_.size() && text_[at_] == '(') {
      eat("(");
      std::string label;
      if (name == "has") {
        label = std::string(word());
        if (label.empty()) return expected("a label");
        space();
      }
      if (!eat(")")) return expected("')'");
      if (name == "all") return leaf(Kind::all);
      if (name == "global") return leaf(Kind::global);
      return named(Kind::has, label, {});
    }
    space();
    if (eat("==")) return compare(Kind::eq, name);
    if (eat("!=")) return compare(Kind::ne, name);
    if (eat("contains")) return compare(Kind::contains, name);
    if (eat_words("starts", "with")) return compare(Kind::starts_with, name);
    if (eat_words("ends", "with")) return compare(Kind::ends_with, name);
    if (eat_words("not", "in")) return set(Kind::not_in, name);
    if (eat("in")) return set(Kind::in, name);
    return expected("an operator (==, !=, in, not in, contains, starts with, ends with)");
  }

  bool eat_words(std::string_view a, std::string_view b) {
    const auto back = at_;
    if (eat(a) && eat(b)) return true;
    at_ = back;
    return false;
  }

  std::string_view word() {
    const auto from = at_;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      const bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                      c == '.' || c == '/' || c == '-';
      if (!ok) break;
      ++at_;
    }
    return text_.substr(from, at_ - from);
  }

  bool string(std::string& out) {
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) return false;
    const auto end = text_.find(text_[at_], at_ + 1);
    if (end == std::string_view::npos) return false;
    out = std::string(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    space();
    return true;
  }

  NodePtr named(Kind kind, std::string_view label, std::vector<std::string> values) {
    if (label.size() > kMaxLabel) return expected(fmt::format("a label of at most {} characters", kMaxLabel));
    return leaf(kind, fmt::format("{}{}", prefix_, label), std::move(values));
  }

  NodePtr compare(Kind kind, std::string_view label) {
    std::string value;
    if (!string(value)) return expected("a quoted value");
    return named(kind, label, {value});
  }

  NodePtr set(Kind kind, std::string_view label) {
    if (!eat("{")) return expected("'{'");
    std::set<std::string> values;
    while (!eat("}")) {
      std::string value;
      if (!string(value)) return expected("a quoted value or '}'");
      values.insert(std::move(value));
      if (eat(",")) continue;
      if (!eat("}")) return expected("',' or '}'");
      break;
    }
    return named(kind, label, {values.begin(), values.end()});
  }

  std::string_view text_;
  std::string_view prefix_;
  std::size_t at_ = 0;
  std::string error_;
};

std::string quoted(std::string_view value) {
  const char q = value.find('"') == std::string_view::npos ? '"' : '\'';
  return fmt::format("{}{}{}", q, value, q);
}

void print(const Node& n, std::string& out) {
  const auto op = [&](std::string_view text) { out += fmt::format("{} {} {}", n.label, text, quoted(n.values[0])); };
  switch (n.kind) {
    case Kind::all:
      out += "all()";
      return;
    case Kind::global:
      out += "global()";
      return;
    case Kind::has:
      out += fmt::format("has({})", n.label);
      return;
    case Kind::eq:
      return op("==");
    case Kind::ne:
      return op("!=");
    case Kind::contains:
      return op("contains");
    case Kind::starts_with:
      return op("starts with");
    case Kind::ends_with:
      return op("ends with");
    case Kind::in:
    case Kind::not_in: {
      out += fmt::format("{} {} {{", n.label, n.kind == Kind::in ? "in" : "not in");
      for (std::size_t i = 0; i < n.values.size(); ++i) out += (i ? ", " : "") + quoted(n.values[i]);
      out += "}";
      return;
    }
    case Kind::not_:
      out += "!";
      return print(*n.children[0], out);
    case Kind::and_:
    case Kind::or_:
      out += "(";
      for (std::size_t i = 0; i < n.children.size(); ++i) {
        if (i) out += n.kind == Kind::and_ ? " && " : " || ";
        print(*n.children[i], out);
      }
      out += ")";
      return;
  }
}

bool match(const Node& n, const Labels& labels) {
  const auto value = [&]() -> const std::string* {
    auto it = labels.find(n.label);
    return it == labels.end() ? nullptr : &it->second;
  };
  const auto among = [&](const std::string& v) { return std::binary_search(n.values.begin(), n.values.end(), v); };
  switch (n.kind) {
    case Kind::all:
      return true;
    case Kind::global:
      return !labels.contains("projectcalico.org/namespace");
    case Kind::has:
      return value() != nullptr;
    case Kind::eq:
      return value() && *value() == n.values[0];
    case Kind::ne:
      return !value() || *value() != n.values[0];
    case Kind::in:
      return value() && among(*value());
    case Kind::not_in:
      return !value() || !among(*value());
    case Kind::contains:
      return value() && value()->find(n.values[0]) != std::string::npos;
    case Kind::starts_with:
      return value() && value()->starts_with(n.values[0]);
    case Kind::ends_with:
      return value() && value()->ends_with(n.values[0]);
    case Kind::not_:
      return !match(*n.children[0], labels);
    case Kind::and_:
      return std::all_of(n.children.begin(), n.children.end(), [&](const auto& c) { return match(*c, labels); });
    case Kind::or_:
      return std::any_of(n.children.begin(), n.children.end(), [&](const auto& c) { return match(*c, labels); });
  }
  return false;
}

using Hints = std::vector<Selector::Hint>;

/// How much a set of hints narrows: lower is better. Labels that every endpoint carries come last.
int weight(const Hints& hints) {
  int w = 0;
  for (const auto& h : hints) {
    if (h.label == "projectcalico.org/namespace" || h.label == "projectcalico.org/orchestrator")
      w += 1000;
    else
      w += h.any ? 2 : 1;
  }
  return w;
}

Hints hints_of(const Node& n) {
  switch (n.kind) {
    case Kind::has:
    case Kind::contains:
    case Kind::starts_with:
    case Kind::ends_with:
      return {{n.label, {}, true}};
    case Kind::eq:
      return {{n.label, n.values[0], false}};
    case Kind::in: {
      Hints all;
      for (const auto& v : n.values) all.push_back({n.label, v, false});
      return all;  // an empty set can never match; no hint is merely slower
    }
    case Kind::and_: {
      Hints best;
      for (const auto& c : n.children) {
        auto h = hints_of(*c);
        if (!h.empty() && (best.empty() || weight(h) < weight(best))) best = std::move(h);
      }
      return best;
    }
    case Kind::or_: {
      Hints all;
      for (const auto& c : n.children) {
        auto h = hints_of(*c);
        if (h.empty()) return {};
        all.insert(all.end(), h.begin(), h.end());
      }
      return all;
    }
    default:
      return {};
  }
}

std::string file_under(std::string_view label) { return std::string(label); }
std::string file_under(std::string_view label, std::string_view value) {
  std::string k(label);
  k.push_back('\0');
  k.append(value);
  return k;
}
std::string file_under(const Selector::Hint& h) { return h.any ? file_under(h.label) : file_under(h.label, h.value); }

}  // namespace

Selector::Selector() : Selector(leaf(Kind::all)) {}
Selector::Selector(std::shared_ptr<const Node> node) : node_(std::move(node)) { print(*node_, canonical_); }

Result<Selector> Selector::parse(std::string_view text, std::string_view label_prefix) {
  auto n = Parser(text, label_prefix).parse();
  if (!n) return tl::unexpected(n.error());
  return Selector(*n);
}

Selector Selector::both(const Selector& a, const Selector& b) {
  return Selector(branch(Kind::and_, {a.node_, b.node_}));
}

Selector Selector::label_is(std::string label, std::string value) {
  return Selector(leaf(Kind::eq, std::move(label), {std::move(value)}));
}

bool Selector::matches(const Labels& labels) const { return match(*node_, labels); }
std::vector<Selector::Hint> Selector::hints() const { return hints_of(*node_); }

void SelectorIndex::evaluate(SelectorId sid, Entry& entry, ItemId iid, Item& item) {
  ++evaluations_;
  const bool now = entry.selector.matches(item.labels);
  const bool before = item.matched.contains(sid);
  if (now == before) return;
  if (now) {
    item.matched.insert(sid);
    entry.items.insert(iid);
  } else {
    item.matched.erase(sid);
    entry.items.erase(iid);
  }
  on_match_(sid, iid, now);
}

void SelectorIndex::set_item(ItemId id, Labels labels) {
  auto [it, fresh] = items_.try_emplace(id);
  Item& item = it->second;
  if (!fresh && item.labels == labels) return;
  const auto unfile = [&](const std::string& key) {
    auto at = items_by_label_.find(key);
    if (at == items_by_label_.end()) return;
    at->second.erase(id);
    if (at->second.empty()) items_by_label_.erase(at);
  };
  for (const auto& [label, value] : item.labels) {
    unfile(file_under(label));
    unfile(file_under(label, value));
  }
  item.labels = std::move(labels);
  std::unordered_set<SelectorId> candidates(item.matched.begin(), item.matched.end());
  candidates.insert(unhinted_.begin(), unhinted_.end());
  for (const auto& [label, value] : item.labels) {
    for (const auto& key : {file_under(label), file_under(label, value)}) {
      items_by_label_[key].insert(id);
      if (auto at = selectors_by_hint_.find(key); at != selectors_by_hint_.end())
        candidates.insert(at->second.begin(), at->second.end());
    }
  }
  for (const auto sid : candidates) evaluate(sid, selectors_.at(sid), id, item);
}

void SelectorIndex::remove_item(ItemId id) {
  auto it = items_.find(id);
  if (it == items_.end()) return;
  for (const auto& [label, value] : it->second.labels) {
    for (const auto& key : {file_under(label), file_under(label, value)}) {
      auto at = items_by_label_.find(key);
      at->second.erase(id);
      if (at->second.empty()) items_by_label_.erase(at);
    }
  }
  const auto matched = std::move(it->second.matched);
  items_.erase(it);
  for (const auto sid : matched) {
    selectors_.at(sid).items.erase(id);
    on_match_(sid, id, false);
  }
}

void SelectorIndex::add_selector(SelectorId id, Selector selector) {
  auto [it, fresh] = selectors_.try_emplace(id);
  if (!fresh) return;
  Entry& entry = it->second;
  entry.hints = selector.hints();
  entry.selector = std::move(selector);
  std::unordered_set<ItemId> candidates;
  if (entry.hints.empty()) {
    unhinted_.insert(id);
    for (const auto& [iid, item] : items_) candidates.insert(iid);
  }
  for (const auto& hint : entry.hints) {
    const auto key = file_under(hint);
    selectors_by_hint_[key].insert(id);
    if (auto at = items_by_label_.find(key); at != items_by_label_.end())
      candidates.insert(at->second.begin(), at->second.end());
  }
  for (const auto iid : candidates) evaluate(id, entry, iid, items_.at(iid));
}

void SelectorIndex::remove_selector(SelectorId id) {
  auto it = selectors_.find(id);
  if (it == selectors_.end()) return;
  unhinted_.erase(id);
  for (const auto& hint : it->second.hints) {
    auto at = selectors_by_hint_.find(file_under(hint));
    if (at == selectors_by_hint_.end()) continue;  // the same hint twice
    at->second.erase(id);
    if (at->second.empty()) selectors_by_hint_.erase(at);
  }
  const auto items = std::move(it->second.items);
  selectors_.erase(it);
  for (const auto iid : items) {
    items_.at(iid).matched.erase(id);
    on_match_(id, iid, false);
  }
}

const std::unordered_set<SelectorIndex::ItemId>& SelectorIndex::items_of(SelectorId id) const {
  static const std::unordered_set<ItemId> kNone;
  auto it = selectors_.find(id);
  return it == selectors_.end() ? kNone : it->second.items;
}

const std::unordered_set<SelectorIndex::SelectorId>& SelectorIndex::selectors_of(ItemId id) const {
  static const std::unordered_set<SelectorId> kNone;
  auto it = items_.find(id);
  return it == items_.end() ? kNone : it->second.matched;
}

}  // namespace calico::model

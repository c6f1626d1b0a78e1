#pragma once
/// Calico's selector language over labels: parse once, match often; and an index of (selectors × labelled items) whose
/// cost follows the change, not the content.
///
///   auto s = Selector::parse("has(sg.projectcalico.org/openstack-1) && zone in {'a','b'}");
///   s->matches(labels);
///
/// Grammar: == != in {…} "not in" {…} contains, starts with, ends with, has(), all(), global(), ! && || (). Empty text
/// is all(). An absent label makes ==, in, contains, starts/ends with and has() false, != and "not in" true. Bounds: 8
/// KiB of text, 64 levels, 512 characters a label name; beyond: invalid. Thread: any (values).
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/base/error.hpp"

namespace calico::model {

using Labels = std::map<std::string, std::string, std::less<>>;

class Selector {
 public:
  struct Node;

  /// all().
  Selector();
  /// `label_prefix` is put before each label name (namespaceSelector: "pcns."). Errors: invalid, with the position.
  [[nodiscard]] static Result<Selector> parse(std::string_view text, std::string_view label_prefix = {});
  [[nodiscard]] static Selector both(const Selector& a, const Selector& b);
  /// `label == 'value'`.
  [[nodiscard]] static Selector label_is(std::string label, std::string value);

  bool matches(const Labels& labels) const;
  /// One text for all spellings of the same selector: what is hashed and printed.
  const std::string& canonical() const { return canonical_; }
  bool operator==(const Selector& o) const { return canonical_ == o.canonical_; }

  /// What an item's labels must show before matches() can be true: one of these label/value pairs (value empty and
  /// `any` true: the label with any value). Empty list = nothing can be said.
  struct Hint {
    std::string label;
    std::string value;
    bool any = false;
  };
  std::vector<Hint> hints() const;

 private:
  explicit Selector(std::shared_ptr<const Node> node);
  std::shared_ptr<const Node> node_;
  std::string canonical_;
};

/// Which items match which selectors. Items and selectors are known by numbers of the caller.
/// Callbacks run inside the mutating call, once per real change; they must not call back into the index.
class SelectorIndex {
 public:
  using ItemId = std::uint32_t;
  using SelectorId = std::uint32_t;
  using OnMatch = std::function<void(SelectorId, ItemId, bool matches)>;

  explicit SelectorIndex(OnMatch on_match) : on_match_(std::move(on_match)) {}

  /// Adds or replaces. Cost: the selectors whose hint the labels meet.
  void set_item(ItemId id, Labels labels);
  void remove_item(ItemId id);
  /// Adds (an id once; a changed selector is a new id). Cost: the items that meet its hint.
  void add_selector(SelectorId id, Selector selector);
  void remove_selector(SelectorId id);
  const std::unordered_set<ItemId>& items_of(SelectorId id) const;
  const std::unordered_set<SelectorId>& selectors_of(ItemId id) const;
  std::size_t items() const { return items_.size(); }
  std::size_t selectors() const { return selectors_.size(); }
  /// Selector evaluations so far: what the tests hold the cost against.
  std::uint64_t evaluations() const { return evaluations_; }

 private:
  struct Item {
    Labels labels;
    std::unordered_set<SelectorId> matched;
  };
  struct Entry {
    Selector selector;
    std::vector<Selector::Hint> hints;
    std::unordered_set<ItemId> items;
  };
  void evaluate(SelectorId sid, Entry& entry, ItemId iid, Item& item);

  OnMatch on_match_;
  std::unordered_map<ItemId, Item> items_;
  std::unordered_map<SelectorId, Entry> selectors_;
  // "label" and "label\0value" → who; items are filed under both, selectors under their hints.
  std::unordered_map<std::string, std::unordered_set<ItemId>> items_by_label_;
  std::unordered_map<std::string, std::unordered_set<SelectorId>> selectors_by_hint_;
  std::unordered_set<SelectorId> unhinted_;
  std::uint64_t evaluations_ = 0;
};

}  // namespace calico::model

#pragma once
/// A Report that remembers: what a module would have in the datastore, and what it asked for.
#include <map>
#include <mutex>
#include <set>

#include "core/sync/view.hpp"

namespace calico::test {

class FakeReport final : public sync::Report {
 public:
  void claim(std::string prefix) override {
    std::lock_guard lock(mutex_);
    claimed_.insert(std::move(prefix));
  }
  void settled(std::string prefix) override {
    std::lock_guard lock(mutex_);
    settled_.insert(std::move(prefix));
  }
  void set(std::string key, std::optional<std::string> value, bool leased) override {
    std::lock_guard lock(mutex_);
    ++sets_;
    if (!value) {
      content_.erase(key);
      return;
    }
    if (leased) leased_.insert(key);
    content_[std::move(key)] = std::move(*value);
  }
  void again(const std::string& key) override {
    std::lock_guard lock(mutex_);
    ++again_[key];
  }
  void set_node(std::string, std::string, std::string) override {}

  int repeated(const std::string& key) const {
    std::lock_guard lock(mutex_);
    const auto it = again_.find(key);
    return it == again_.end() ? 0 : it->second;
  }

  std::optional<std::string> get(const std::string& key) const {
    std::lock_guard lock(mutex_);
    const auto it = content_.find(key);
    return it == content_.end() ? std::nullopt : std::optional(it->second);
  }
  bool leased(const std::string& key) const {
    std::lock_guard lock(mutex_);
    return leased_.contains(key);
  }
  bool is_settled(const std::string& prefix) const {
    std::lock_guard lock(mutex_);
    return settled_.contains(prefix);
  }
  bool is_claimed(const std::string& prefix) const {
    std::lock_guard lock(mutex_);
    return claimed_.contains(prefix);
  }
  std::map<std::string, std::string> content() const {
    std::lock_guard lock(mutex_);
    return content_;
  }
  int sets() const {
    std::lock_guard lock(mutex_);
    return sets_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, int> again_;
  std::map<std::string, std::string> content_;
  std::set<std::string> leased_, claimed_, settled_;
  int sets_ = 0;
};

}  // namespace calico::test

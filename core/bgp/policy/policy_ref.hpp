#pragma once
/// A shared, immutable RoutePolicy as a value: copied by pointer, compared by content, so that options which hold one
/// can be compared with `==` to learn what a reload changed. Empty: no policy, which costs the asker one test.
/// Thread: any.
#include <memory>

namespace calico::bgp {

class RoutePolicy;

class PolicyRef {
 public:
  PolicyRef() = default;
  PolicyRef(std::shared_ptr<const RoutePolicy> policy) : policy_(std::move(policy)) {}  // NOLINT: a drop-in
  explicit operator bool() const { return policy_ != nullptr; }
  const RoutePolicy& operator*() const { return *policy_; }
  const RoutePolicy* operator->() const { return policy_.get(); }
  const std::shared_ptr<const RoutePolicy>& pointer() const { return policy_; }
  bool operator==(const PolicyRef& other) const;

 private:
  std::shared_ptr<const RoutePolicy> policy_;
};

}  // namespace calico::bgp

#pragma once
/// The compiler and the Firewall, driven without interfaces: what felix's engine does with a change, minus rtnetlink.
#include <optional>
#include <stdexcept>
#include <string>

#include "core/model/compiler.hpp"
#include "core/nft/connection.hpp"
#include "modules/felix/firewall.hpp"
#include "tests/bench/felix/cloud.hpp"
#include "tests/bench/felix/measure.hpp"

namespace calico::bench {

class Programmed {
 public:
  /// The calling thread must be in the namespace.
  explicit Programmed(const felix::Settings& settings = {}) : compiler_({.host = kHost}) {
    auto c = nft::Connection::open();
    if (!c) throw std::runtime_error(c.error().what);
    firewall_.emplace(std::move(*c));
    firewall_->configure(settings);
  }
  void update(const std::string& key, std::optional<std::string_view> value) { compiler_.update(key, value); }
  void flush() { delta_ = compiler_.flush(); }
  /// From the delta to the kernel's acknowledgement.
  void program() {
    if (loaded_) {
      firewall_->stage(compiler_.ruleset(), delta_);
    } else {
      firewall_->stage_all(compiler_.ruleset());
      must(firewall_->load());
      loaded_ = true;
    }
    must(firewall_->add());
    must(firewall_->remove());
    if (!firewall_->refused().empty())
      throw std::runtime_error("the kernel refused " + firewall_->refused().begin()->first);
    if (!compiler_.faults().empty()) throw std::runtime_error(compiler_.faults().begin()->second);
  }
  const model::Compiler& compiler() const { return compiler_; }
  const felix::Firewall& firewall() const { return *firewall_; }

 private:
  static void must(const Status& s) {
    if (!s) throw std::runtime_error(s.error().what);
  }
  model::Compiler compiler_;
  model::RulesetDelta delta_;
  std::optional<felix::Firewall> firewall_;
  bool loaded_ = false;
};

/// What a namespace's tables are in nft's language, to be loaded elsewhere: without the marks of their owner.
inline void save_ruleset(const test::Netns& ns, const std::string& path) {
  ns.run("nft list ruleset | sed -e 's/ progname .*//' -e '/^\tflags/d' > " + path);
}

}  // namespace calico::bench

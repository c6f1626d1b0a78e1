#pragma once
/// One answer to a scrape: families of samples, written as Prometheus' text format 0.0.4.
///
///   Page page;
///   page.gauge("felix_active_local_endpoints", "Endpoints of this host", 12);
///   page.counter("calico_bgp_updates_total", "UPDATE messages", 7, {{"direction", "in"}});
///   answer(page.text());
///
/// A scraper refuses the whole page for one bad line. So a sample that would spoil it is left out, and how many were is
/// itself a sample: a name or label that is none, a second one of the same labels, a family of two types, more than
/// kMaxSeries series of a family.
/// Thread: the owner's. Owns: copies. Errors: none.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace calico::metrics {

using Labels = std::vector<std::pair<std::string, std::string>>;

/// Series a family may have.
inline constexpr std::size_t kMaxSeries = 200;

class Page {
 public:
  void counter(std::string_view name, std::string_view help, double value, const Labels& labels = {});
  void gauge(std::string_view name, std::string_view help, double value, const Labels& labels = {});
  /// `counts[i]` observations were at most `bounds[i]` and above the bound before; the last count has no bound.
  void histogram(std::string_view name, std::string_view help, std::span<const double> bounds,
                 std::span<const std::uint64_t> counts, double sum, const Labels& labels = {});
  /// Families by name, series by labels.
  std::string text() const;
  std::size_t left_out() const { return left_out_; }

 private:
  struct Family {
    std::string type, help;
    std::map<std::string, std::string> series;  // labels as text → lines
  };
  std::map<std::string, std::string>* family(std::string_view name, std::string_view type, std::string_view help,
                                             const Labels& labels, std::string& key);
  void single(std::string_view name, std::string_view type, std::string_view help, double value, const Labels& labels);

  std::map<std::string, Family, std::less<>> families_;
  std::size_t left_out_ = 0;
};

/// Letters, digits, '_' and, unless it is a label's, ':'; no digit first.
[[nodiscard]] bool is_name(std::string_view name, bool label = false);

}  // namespace calico::metrics

#include "core/metrics/page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

namespace calico::metrics {
namespace {

std::string number(double v) {
  if (std::isnan(v)) return "NaN";
  if (std::isinf(v)) return v > 0 ? "+Inf" : "-Inf";
  if (v == std::floor(v) && std::abs(v) < 9e15) return fmt::format("{}", static_cast<std::int64_t>(v));
  return fmt::format("{}", v);
}

/// Help texts know \\ and \n, values of labels \" besides.
std::string escaped(std::string_view text, bool label) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else if (c == '"' && label)
      out += "\\\"";
    else
      out += c;
  }
  return out;
}

/// `a="b",c="d"`, without braces.
std::string written(const Labels& labels) {
  std::string out;
  for (const auto& [name, value] : labels)
    out += fmt::format("{}{}=\"{}\"", out.empty() ? "" : ",", name, escaped(value, true));
  return out;
}

std::string braced(const std::string& labels) { return labels.empty() ? "" : "{" + labels + "}"; }

}  // namespace

bool is_name(std::string_view name, bool label) {
  if (name.empty() || name.size() > 200 || std::isdigit(static_cast<unsigned char>(name[0]))) return false;
  if (label && name.starts_with("__")) return false;
  return std::all_of(name.begin(), name.end(), [&](unsigned char c) {
    return (c < 0x80 && std::isalnum(c)) || c == '_' || (c == ':' && !label);
  });
}

std::map<std::string, std::string>* Page::family(std::string_view name, std::string_view type, std::string_view help,
                                                 const Labels& labels, std::string& key) {
  bool good = is_name(name);
  for (const auto& [label, value] : labels)
    good = good && is_name(label, true) && !(label == "le" && type == "histogram") &&
           std::count_if(labels.begin(), labels.end(), [&](const auto& l) { return l.first == label; }) == 1;
  auto found = families_.find(name);
  if (good && found == families_.end())
    found = families_.emplace(std::string(name), Family{std::string(type), std::string(help), {}}).first;
  key = written(labels);
  if (!good || found->second.type != type || found->second.series.contains(key) ||
      found->second.series.size() >= kMaxSeries) {
    ++left_out_;
    return nullptr;
  }
  return &found->second.series;
}

void Page::single(std::string_view name, std::string_view type, std::string_view help, double value,
                  const Labels& labels) {
  std::string key;
  if (auto* series = family(name, type, help, labels, key))
    (*series)[key] = fmt::format("{}{} {}\n", name, braced(key), number(value));
}

void Page::counter(std::string_view name, std::string_view help, double value, const Labels& labels) {
  single(name, "counter", help, value, labels);
}

void Page::gauge(std::string_view name, std::string_view help, double value, const Labels& labels) {
  single(name, "gauge", help, value, labels);
}

void Page::histogram(std::string_view name, std::string_view help, std::span<const double> bounds,
                     std::span<const std::uint64_t> counts, double sum, const Labels& labels) {
  std::string key;
  auto* series = family(name, "histogram", help, labels, key);
  if (!series) return;
  std::string lines;
  std::uint64_t total = 0;
  const auto* comma = key.empty() ? "" : ",";
  for (std::size_t i = 0; i < counts.size(); ++i) {
    total += counts[i];
    lines += fmt::format("{}_bucket{{{}{}le=\"{}\"}} {}\n", name, key, comma,
                         i < bounds.size() ? number(bounds[i]) : "+Inf", total);
  }
  lines += fmt::format("{}_sum{} {}\n{}_count{} {}\n", name, braced(key), number(sum), name, braced(key), total);
  (*series)[key] = std::move(lines);
}

std::string Page::text() const {
  std::string out;
  for (const auto& [name, f] : families_) {
    out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, escaped(f.help, false), name, f.type);
    for (const auto& [labels, lines] : f.series) out += lines;
  }
  if (left_out_ > 0)
    out += fmt::format(
        "# HELP calico_node_samples_left_out Samples that would have spoiled this page\n"
        "# TYPE calico_node_samples_left_out gauge\ncalico_node_samples_left_out {}\n",
        left_out_);
  return out;
}

}  // namespace calico::metrics

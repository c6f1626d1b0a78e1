// The text a scraper reads, what is refused into it, counting from several threads, health's two questions.
#include "core/metrics/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>
#include <thread>

#include "core/metrics/health.hpp"

namespace calico::metrics {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(MetricsPage, IsTextFormat004) {
  Page p;
  p.gauge("b_gauge", "A \\ and\na line", 1.5);
  p.counter("a_total", "Things", 3, {{"type", "x"}});
  p.counter("a_total", "Things", 12345678901.0, {{"type", "say \"no\"\n\\"}});
  p.gauge("c_nan", "", std::nan(""));
  p.gauge("d_inf", "", -std::numeric_limits<double>::infinity());
  const double bounds[] = {0.005, 1};
  const std::uint64_t counts[] = {2, 3, 1};
  p.histogram("e_seconds", "Time", bounds, counts, 7.25, {{"loop", "felix"}});
  EXPECT_EQ(p.text(),
            "# HELP a_total Things\n# TYPE a_total counter\n"
            "a_total{type=\"say \\\"no\\\"\\n\\\\\"} 12345678901\n"
            "a_total{type=\"x\"} 3\n"
            "# HELP b_gauge A \\\\ and\\na line\n# TYPE b_gauge gauge\nb_gauge 1.5\n"
            "# HELP c_nan \n# TYPE c_nan gauge\nc_nan NaN\n"
            "# HELP d_inf \n# TYPE d_inf gauge\nd_inf -Inf\n"
            "# HELP e_seconds Time\n# TYPE e_seconds histogram\n"
            "e_seconds_bucket{loop=\"felix\",le=\"0.005\"} 2\n"
            "e_seconds_bucket{loop=\"felix\",le=\"1\"} 5\n"
            "e_seconds_bucket{loop=\"felix\",le=\"+Inf\"} 6\n"
            "e_seconds_sum{loop=\"felix\"} 7.25\n"
            "e_seconds_count{loop=\"felix\"} 6\n");
  EXPECT_EQ(p.left_out(), 0U);
}

TEST(MetricsPage, OneBadSampleDoesNotSpoilThePage) {
  Page p;
  p.gauge("good", "", 1);
  p.gauge("good", "", 2);                  // the same series again
  p.counter("good", "", 3, {{"a", "b"}});  // another type
  p.gauge("bad name", "", 4);
  p.gauge("9bad", "", 4);
  p.gauge("", "", 4);
  p.gauge("b", "", 4, {{"has-dash", "x"}});
  p.gauge("c", "", 4, {{"twice", "x"}, {"twice", "y"}});
  p.gauge("d", "", 4, {{"__name__", "x"}});
  EXPECT_EQ(p.left_out(), 8U);
  const auto text = p.text();
  EXPECT_THAT(text, HasSubstr("\ngood 1\n"));
  EXPECT_THAT(text, HasSubstr("\ncalico_node_samples_left_out 8\n"));
  EXPECT_THAT(text, Not(HasSubstr(" 4\n")));
  Page many;
  for (int i = 0; i < 1000; ++i) many.gauge("m", "", i, {{"i", std::to_string(i)}});
  EXPECT_EQ(many.left_out(), 1000 - kMaxSeries);
}

TEST(MetricsRegistry, CountsFromManyThreads) {
  Registry r;
  auto& c = r.counter("hits", "Hits");
  auto& h = r.histogram("took", "Time", {1, 0.1, 1});
  EXPECT_EQ(&c, &r.counter("hits", "Hits")) << "asked again: the same";
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) {
        c.add();
        h.observe(i % 2 ? 0.1 : 0.5);
      }
      (void)r.text();
    });
  for (auto& t : threads) t.join();
  const auto text = r.text();
  EXPECT_THAT(text, HasSubstr("\nhits 40000\n"));
  EXPECT_THAT(text, HasSubstr("took_bucket{le=\"0.1\"} 20000\n")) << "a bound belongs to its bucket";
  EXPECT_THAT(text, HasSubstr("took_bucket{le=\"1\"} 40000\n"));
  EXPECT_THAT(text, HasSubstr("took_bucket{le=\"+Inf\"} 40000\n"));
  EXPECT_THAT(text, HasSubstr("took_count 40000\n"));
}

TEST(MetricsRegistry, LabelsAreBounded) {
  Registry r;
  for (int i = 0; i < 5000; ++i) r.counter("by_name", "", {{"name", std::to_string(i)}}).add();
  const auto text = r.text();
  EXPECT_THAT(text, HasSubstr("by_name{name=\"0\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("by_name{name=\"other\"} 4801\n"));
  EXPECT_THAT(text, Not(HasSubstr("left_out")));
}

TEST(MetricsRegistry, CollectorsComeAndGo) {
  Registry r;
  int asked = 0;
  r.collect("me", [&](Page& p) { p.gauge("now", "", ++asked); });
  EXPECT_THAT(r.text(), HasSubstr("\nnow 1\n"));
  EXPECT_THAT(r.text(), HasSubstr("\nnow 2\n"));
  r.forget("me");
  EXPECT_EQ(r.text(), "");
  EXPECT_EQ(asked, 2);
}

TEST(Health, LiveAndReadyAreTwoQuestions) {
  Health h;
  EXPECT_TRUE(h.readiness().ok);
  h.set("felix", {.ready = false, .detail = "waiting for the \"datastore\""});
  EXPECT_TRUE(h.liveness().ok);
  const auto no = h.readiness();
  EXPECT_FALSE(no.ok);
  const auto v = boost::json::parse(no.json);
  EXPECT_EQ(v.at("ok"), false);
  EXPECT_EQ(v.at("reasons").at(0), "felix: waiting for the \"datastore\"");
  EXPECT_EQ(v.at("components").at(0).at("live"), true);
  h.set("felix", {});
  EXPECT_TRUE(h.readiness().ok);
  h.set("loop bgp", {.live = false});
  EXPECT_FALSE(h.liveness().ok);
  EXPECT_FALSE(h.readiness().ok) << "the dead are not ready";
  EXPECT_EQ(boost::json::parse(h.liveness().json).at("reasons").at(0), "loop bgp: not live");
  h.remove("loop bgp");
  EXPECT_TRUE(h.readiness().ok);
  for (int i = 0; i < 1000; ++i) h.set(std::to_string(i), {});
  EXPECT_EQ(boost::json::parse(h.liveness().json).at("components").as_array().size(), Health::kMaxComponents);
}

}  // namespace
}  // namespace calico::metrics

// A whole cloud of the lab goes from its controller's embedded datastore to a real etcd cluster of three members, and
// back, with a ping every 10 ms between its machines: none is lost, no rule or route changes, the API works on both
// sides, and nodes that were off find their way.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <fstream>

#include "core/loop/loop.hpp"
#include "core/store/etcd/client.hpp"
#include "tests/netns/lab/spine.hpp"
#include "tests/support/etcd_cluster.hpp"

using namespace calico;
using namespace calico::lab;

namespace {

const std::string kNode = CALICO_BINARY_DIR "/bin/calico-node";

class Move : public Spine {
 protected:
  void SetUp() override {
    NEEDS_ETCD_CLUSTER();
    Up(3, 2);
  }
  void TearDown() override {
    if (etcd && HasFailure()) std::puts(etcd->log(0).c_str());
    Spine::TearDown();
    etcd.reset();
  }
  /// The etcd cluster has a CA of its own: the nodes get it beside theirs, as an operator would before a move.
  void configured() override {
    test::EtcdCluster::Options o;
    o.tls = true;
    o.client_ca_file = cluster->paths().node("controller-1") + "/ca.crt";
    etcd = std::make_unique<test::EtcdCluster>(o);
    std::ifstream in(etcd->pki().ca_file());
    const std::string ca{std::istreambuf_iterator<char>(in), {}};
    const auto fabric = "nsenter --net=" + cluster->paths().netns("fabric") + " ";
    shell(fabric + "ip link add etcd type veth peer name lab netns " + etcd->fabric().name());
    shell(fabric + "ip link set etcd master mgmt up");
    etcd->fabric().run("ip link set lab master br0 up");
    int n = 100;
    for (const auto& name : cluster->all_nodes()) {
      std::ofstream(cluster->paths().node(name) + "/ca.crt", std::ios::app) << ca;
      InNode(name, fmt::format("ip addr add 10.79.0.{}/24 dev eth0", n++));
    }
  }
  static void shell(const std::string& command) {
    const auto out = test::shell(command);
    ASSERT_EQ(out.status, 0) << command << ": " << out.text;
  }
  test::Output ask(const std::string& node, const std::string& words) {
    return test::shell(fmt::format("nsenter --net={} {} {} --run-dir {}/run/calico-node", cluster->paths().netns(node),
                                   kNode, words, cluster->paths().node(node)));
  }
  test::Output move(const std::string& words) {
    auto out = ask("controller-1", "store move " + words);
    std::printf("%s\n", out.text.c_str());
    return out;
  }
  testing::AssertionResult in_sync_with(const std::string& node, const std::string& where) {
    std::string last;
    auto r = wait_until("in sync with " + where, kLimit, [&] {
      last = ask(node, "store status").text;
      return last.find("in sync") != last.npos && last.find(where) != last.npos;
    });
    return r ? testing::AssertionSuccess() : testing::AssertionFailure() << node << ": " << last;
  }
  /// Rules, routes and neighbours of a host, counters aside; routes of BGP may be learned anew, not be others.
  std::string kernel(const std::string& node) {
    return InNode(node,
                  "sh -c \"nft list ruleset | sed -e 's/ progname .*//' -e 's/counter packets [0-9]* bytes "
                  "[0-9]*/counter/'; ip -N route show proto 88; ip -N route show proto 89 | sort; ip -N neigh show nud "
                  "permanent\"");
  }
  std::vector<std::string> kernels() {
    std::vector<std::string> out;
    for (const auto* n : {"compute-1", "compute-2", "compute-3"}) out.push_back(kernel(n));
    return out;
  }
  /// Writes that many revisions into the etcd, so that it is far from where the embedded datastore is.
  void age_etcd(int revisions) {
    Loop loop("age");
    loop.start();
    loop.call([&] { etcd->fabric().enter(); });
    store::EtcdOptions o;
    o.endpoints = etcd->endpoints();
    o.tls = etcd->pki().issue("age");
    auto client = store::EtcdClient::create(loop.executor(), std::move(o));
    ASSERT_TRUE(client) << client.error().what;
    std::vector<std::future<Result<store::PutResult>>> puts;
    for (int i = 0; i < revisions; ++i) {
      store::PutRequest put;
      put.key = "/age";
      puts.push_back(boost::asio::co_spawn(loop.io(), (*client)->put(std::move(put)), boost::asio::use_future));
      if (puts.size() < 16) continue;
      for (auto& p : puts) {
        auto done = p.get();
        ASSERT_TRUE(done) << done.error().what;
      }
      puts.clear();
    }
    client->reset();
    loop.stop();
  }
  double etcd_calls() const {
    double sum = 0;
    for (int i = 0; i < etcd->size(); ++i) sum += etcd->calls(i);
    return sum;
  }

  std::unique_ptr<test::EtcdCluster> etcd;
};

TEST_F(Move, ThereAndBackWithoutAPacketLost) {
  if (IsSkipped() || HasFatalFailure()) return;
  age_etcd(4000);
  StartStreams();
  const auto before = kernels();
  for (const auto& k : before) ASSERT_GT(k.size(), 1000U) << k;

  // What an operator does first, and what a wrong address comes to.
  auto out = move("--to https://10.79.0.77:2379 --check");
  EXPECT_EQ(out.status, 1);
  ASSERT_EQ(move("--to " + etcd->urls() + " --check").status, 0);

  const auto calls = etcd_calls();
  ASSERT_EQ(move("--to " + etcd->urls()).status, 0);
  for (const auto* n : {"rr-2", "compute-1", "compute-2", "compute-3", "controller-1"})
    ASSERT_TRUE(in_sync_with(n, "https://10.79.0.")) << n;
  EXPECT_EQ(kernels(), before);
  const auto took = etcd_calls() - calls;
  std::printf("[  COUNT   ] %.0f requests to etcd for the move and six processes that follow\n", took);
  EXPECT_LT(took, 600);

  // The API is the controller's as before; what it is asked for now goes through etcd.
  AddVm("vm-4", "compute-1");
  EXPECT_NE(ask("controller-1", "store move").text.find("4 of 4 nodes follow"), std::string::npos);
  EXPECT_EQ(ask("controller-1", "store move --to " + etcd->urls()).status, 1) << "it is there already";

  // Restarted without the controller, a node finds the way in its mirror; with it, and wherever it looks first.
  ok(cluster->kill("controller-1"));
  ok(cluster->kill("compute-3"));
  ok(cluster->start({"compute-3"}));
  ASSERT_TRUE(in_sync_with("compute-3", "https://10.79.0."));
  ok(cluster->start({"controller-1"}));
  ASSERT_TRUE(in_sync_with("controller-1", "https://10.79.0."));
  SessionsUp();

  // Back, with one node that is off meanwhile.
  ok(cluster->kill("rr-2"));
  out = move("--to embedded --force");
  ASSERT_EQ(out.status, 0);
  EXPECT_NE(out.text.find("not yet: rr-2"), std::string::npos) << out.text;
  ASSERT_TRUE(in_sync_with("controller-1", "in this process"));
  for (const auto* n : {"compute-1", "compute-2", "compute-3"}) ASSERT_TRUE(in_sync_with(n, "https://192.168.0."));
  ok(cluster->start({"rr-2"}));
  ASSERT_TRUE(in_sync_with("rr-2", "https://192.168.0."));
  SessionsUp();
  AddVm("vm-5", "compute-2");
  EXPECT_NE(ask("controller-1", "store move").text.find("4 of 4 nodes follow"), std::string::npos);
  Traffic(kRestartTime + Millis(3000));  // beyond the moment at which stale routes would go
  ExpectNoLoss();

  Matrix all{"ping", 0, all_pairs(guests)};
  ok(run_matrices(guests, {&all}, {}));
  EXPECT_TRUE(all.as_expected());
}

}  // namespace

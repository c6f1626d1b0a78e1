// Who a node is to an etcd with authentication: user and password over TLS, one user a node with exactly the rights a
// node needs; what is said when something is missing; passwords and rights that change while nodes run; tokens that
// expire.
#include "tests/interop/etcd/agents.hpp"

namespace calico::test {
namespace {

using namespace std::chrono_literals;
using store::EtcdClient;
using store::EtcdOptions;

class EtcdIdentity : public testing::Test {
 protected:
  void SetUp() override { NEEDS_ETCD_CLUSTER(); }
  void begin(EtcdCluster::Options options) {
    options.tls = true;
    cluster_ = std::make_unique<EtcdCluster>(options);
    files_ = cluster_->nameless();
    write("root", EtcdCluster::kRootPassword);
    cluster_->enable_auth();
    loop_.start();
    loop_.call([this] { cluster_->fabric().enter(); });
  }
  void TearDown() override {
    if (HasFailure() && cloud_) std::puts(cloud_->all().c_str());
    cloud_.reset();
    loop_.stop();
    cluster_.reset();
  }
  std::string write(const std::string& user, const std::string& password) {
    const auto file = dir_.file(user + ".password");
    auto written = http::write_file(file, password + "\n", 0600);
    if (!written) throw std::runtime_error(written.error().what);
    return file;
  }
  void become(EtcdOptions& o, const std::string& user) {
    o.tls = files_;
    o.username = user;
    o.password_file = dir_.file(user + ".password");
  }
  std::shared_ptr<EtcdClient> client(const std::string& user) {
    EtcdOptions o;
    o.endpoints = cluster_->endpoints();
    o.tls = files_;
    if (!user.empty()) become(o, user);
    auto made = EtcdClient::create(loop_.executor(), std::move(o));
    if (!made) throw std::runtime_error(made.error().what);
    return *made;
  }
  template <class T>
  Result<T> run(awaitable<Result<T>> a) {
    auto future = boost::asio::co_spawn(loop_.executor(), std::move(a), boost::asio::use_future);
    if (future.wait_for(30s) != std::future_status::ready) throw std::runtime_error("no answer after 30 s");
    return future.get();
  }
  Result<store::PutResult> put(EtcdClient& c, const std::string& key, const std::string& value = "v") {
    return run(c.put(store::PutRequest{.key = key, .value = value}));
  }
  Result<store::RangeResult> list(EtcdClient& c, const std::string& prefix) {
    return run(c.range(store::RangeRequest{.key = prefix, .range_end = store::prefix_end(prefix)}));
  }
  /// Nodes host-0… each with a user, a password and the rights of a node.
  void begin_cloud(int agents) {
    Cloud::Options options{.agents = agents};
    options.timing.lease_keepalive = 2s;
    options.as = [this](int i, EtcdOptions& o) { become(o, Cloud::host(i)); };
    options.operator_as = [this](EtcdOptions& o) { become(o, "root"); };
    for (int i = 0; i < agents; ++i) {
      write(Cloud::host(i), "first-" + Cloud::host(i));
      cluster_->add_node_user(Cloud::host(i), "first-" + Cloud::host(i));
    }
    cloud_ = std::make_unique<Cloud>(*cluster_, std::move(options));
    cloud_->populate();
    cloud_->start();
    ASSERT_TRUE(cloud_->in_sync());
  }
  void passwd(const std::string& user, const std::string& password) {
    cluster_->ctl("user passwd " + user + " --interactive=false <<'EOF'\n" + password + "\nEOF");
  }

  TempDir dir_{"etcd-users"};
  http::TlsFiles files_;
  std::unique_ptr<EtcdCluster> cluster_;
  Loop loop_{"identity"};
  std::unique_ptr<Cloud> cloud_;
};

TEST_F(EtcdIdentity, ACertificateAloneIsExplainedInOneLine) {
  begin({.members = 1});
  struct Row {
    http::TlsFiles tls;
    const char* user;
    const char* expected;
  };
  const auto named = cluster_->pki().issue("node");
  for (const auto& row :
       {Row{files_, "", "set [datastore] username and password_file"}, Row{named, "", "give this node one without"},
        Row{named, "root", "give this node one without"}}) {
    EtcdOptions o;
    o.endpoints = cluster_->endpoints();
    if (*row.user) become(o, row.user);
    o.tls = row.tls;
    auto c = EtcdClient::create(loop_.executor(), std::move(o));
    ASSERT_TRUE(c);
    auto r = list(**c, "/calico/");
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, Errc::no_permission) << r.error().what;
    EXPECT_NE(r.error().what.find(row.expected), std::string::npos) << r.error().what;
    EXPECT_EQ(r.error().what.find('\n'), std::string::npos);
    // As the node says it.
    TempDir dir("nobody");
    auto service = sync::Service::open({.datastore = *c, .mirror_file = dir.file("mirror.db"), .node = "n"});
    ASSERT_TRUE(service);
    (*service)->start();
    EXPECT_TRUE(eventually(row.expected, [&] {
      return (*service)->view().state().reason.find(row.expected) != std::string::npos;
    })) << (*service)->view().state().reason;
    EXPECT_EQ((*service)->view().state().phase, sync::Phase::waiting);
  }
  auto root = client("root");
  EXPECT_TRUE(put(*root, "/calico/x")) << "the positive control";
}

TEST_F(EtcdIdentity, AWrongPasswordAndAnUnknownUser) {
  begin({.members = 1});
  cluster_->add_node_user("host-0", "right");
  const auto file = write("host-0", "wr0ng");
  write("nobody", "x");
  for (const std::string user : {"host-0", "nobody"}) {
    auto c = client(user);
    for (int i = 0; i < 10; ++i) {
      auto r = list(*c, "/calico/");
      ASSERT_FALSE(r);
      EXPECT_EQ(r.error().code, Errc::no_permission);
      EXPECT_NE(r.error().what.find(fmt::format("log in as '{}'", user)), std::string::npos) << r.error().what;
      EXPECT_NE(r.error().what.find(user + ".password its password?"), std::string::npos) << r.error().what;
      EXPECT_EQ(r.error().what.find("wr0ng"), std::string::npos) << r.error().what;
      EXPECT_EQ(r.error().what.find('\n'), std::string::npos);
    }
    EXPECT_EQ(c->requests(), 1U) << "one attempt, not ten";
  }
  auto c = client("host-0");
  EXPECT_FALSE(list(*c, "/calico/"));
  write("host-0", "right");
  EXPECT_TRUE(list(*c, "/calico/")) << "the file is read again, and its new text is tried at once";
}

TEST_F(EtcdIdentity, ANodeMayWriteWhatIsItsOwnAndReadsTheRest) {
  begin({.members = 1});
  cluster_->add_node_user("host-0", "pw");
  write("host-0", "pw");
  auto root = client("root");
  ASSERT_TRUE(put(*root, endpoint_key("host-0", 1)));
  auto c = client("host-0");
  auto all = list(*c, "/calico/");
  ASSERT_TRUE(all) << all.error().what;
  EXPECT_EQ(all->kvs.size(), 1U);
  EXPECT_TRUE(put(*c, model::status_key("", "host-0")));
  EXPECT_TRUE(put(*c, model::node_key("host-0")));
  for (const auto& key : {model::status_key("", "host-1"), model::node_key("host-1"), endpoint_key("host-0", 1),
                          std::string(model::kClusterInformation)}) {
    auto denied = put(*c, key);
    ASSERT_FALSE(denied) << key;
    EXPECT_EQ(denied.error().code, Errc::no_permission);
    EXPECT_NE(denied.error().what.find(fmt::format("user 'host-0' may not put {}:", key)), std::string::npos)
        << denied.error().what;
  }
  auto outside = list(*c, "/other/");
  ASSERT_FALSE(outside);
  EXPECT_NE(outside.error().what.find("may not read /other/…:"), std::string::npos) << outside.error().what;
  auto watch = run(c->watch(store::WatchRequest{.key = "/other/", .range_end = store::prefix_end("/other/")}));
  ASSERT_FALSE(watch);
  EXPECT_NE(watch.error().what.find("may not watch /other/…:"), std::string::npos) << watch.error().what;
}

TEST_F(EtcdIdentity, NodesWithOnlyTheirRightsLiveAndSurviveTheClustersRestart) {
  begin({});
  begin_cloud(4);
  Budget budget(*cloud_);
  cluster_->kill_all();  // tokens live in the members' memory
  ASSERT_TRUE(cloud_->all_say("not reachable"));
  cluster_->start_all();
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_TRUE(budget.kept());
  double log_ins = 0;
  for (int i = 0; i < 3; ++i)
    log_ins += cluster_->metric(i, "grpc_server_started_total", "grpc_method=\"Authenticate\"");
  std::printf("[  COUNT   ] %.0f log-ins of 4 nodes and one operator after the restart\n", log_ins);
  EXPECT_LE(log_ins, 2 * 5);
  EXPECT_EQ(cloud_->removed(), std::set<std::string>{});
  EXPECT_EQ(cloud_->lists(), 4U);
}

TEST_F(EtcdIdentity, TokensExpireAndAreRenewed) {
  begin({.token_ttl_s = 1});
  begin_cloud(3);
  const auto log_ins = [&] {
    double n = 0;
    for (int i = 0; i < 3; ++i) n += cluster_->metric(i, "grpc_server_started_total", "grpc_method=\"Authenticate\"");
    return n;
  };
  const auto before = log_ins();
  Budget budget(*cloud_);
  // Something to report now and then, with pauses in which a token of one second ends.
  auto last = std::chrono::steady_clock::now();
  int reported = 0;
  ASSERT_TRUE(eventually("nodes that logged in again",
                         [&] {
                           if (const auto now = std::chrono::steady_clock::now(); now - last > 3s) {
                             last = now;
                             ++reported;
                             for (auto& a : cloud_->agents())
                               a->service().report().set(
                                   model::felix_host_prefix("", a->name()) + "workload/openstack/vm/endpoint/0",
                                   fmt::format("up-{}", reported));
                           }
                           return log_ins() >= before + 6;
                         }))
      << before << " before, now " << log_ins();
  EXPECT_LE(log_ins() - before, 4.0 * (reported + 1)) << "three nodes and an operator, once each time";
  ASSERT_TRUE(cloud_->follows());
  ASSERT_TRUE(cloud_->in_sync());
  EXPECT_TRUE(budget.kept());
  EXPECT_EQ(cloud_->removed(), std::set<std::string>{});
  EXPECT_EQ(cloud_->lists(), 3U);
  for (auto& a : cloud_->agents()) EXPECT_EQ(a->service().status().resumes, 0U) << "the watches did not even notice";
}

TEST_F(EtcdIdentity, APasswordIsChangedWhileTheNodeRuns) {
  begin({});
  begin_cloud(2);
  auto& agent = *cloud_->agents()[0];
  const auto report = [&](const std::string& value) {
    agent.service().report().set(model::felix_host_prefix("", "host-0") + "workload/openstack/vm/endpoint/0", value);
  };
  const auto arrives = [&](const std::string& value) {
    return eventually(value + " in the datastore", [&] {
      const auto kv = cloud_->store().get(model::felix_host_prefix("", "host-0") + "workload/openstack/vm/endpoint/0");
      return kv && kv->value == value;
    });
  };
  // First the file, then etcd: the old token goes on until it is taken away.
  write("host-0", "second");
  report("up-1");
  ASSERT_TRUE(arrives("up-1"));
  passwd("host-0", "second");
  report("up-2");
  ASSERT_TRUE(arrives("up-2")) << agent.describe();
  // First etcd, then the file: the node says what is wrong, and goes on by itself.
  passwd("host-0", "third");
  Budget budget(*cloud_);
  report("up-3");
  ASSERT_TRUE(eventually("the reason", [&] {
    return agent.service().status().report_error.find("host-0.password its password?") != std::string::npos;
  })) << agent.describe();
  EXPECT_EQ(agent.service().view().state().phase, sync::Phase::in_sync) << "its watches are open";
  write("host-0", "third");
  ASSERT_TRUE(arrives("up-3")) << agent.describe();
  EXPECT_TRUE(budget.kept());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), std::set<std::string>{});
}

TEST_F(EtcdIdentity, ARightIsTakenAwayAndGivenBack) {
  begin({});
  begin_cloud(2);
  auto& agent = *cloud_->agents()[1];
  const auto mine = model::felix_host_prefix("", "host-1");
  cluster_->ctl("role revoke-permission --prefix node-host-1 " + mine);
  agent.service().report().set(mine + "workload/openstack/vm/endpoint/0", "down");
  ASSERT_TRUE(eventually("which key", [&] {
    const auto error = agent.service().status().report_error;
    return error.find("user 'host-1' may not ") != std::string::npos &&
           error.find(mine + "workload/openstack/vm/endpoint/0") != std::string::npos;
  })) << agent.describe();
  cluster_->ctl("role grant-permission node-host-1 --prefix=true readwrite " + mine);
  ASSERT_TRUE(eventually("the report", [&] {
    const auto kv = cloud_->store().get(mine + "workload/openstack/vm/endpoint/0");
    return kv && kv->value == "down";
  })) << agent.describe();
  // Without the right to read, what was read stays.
  cluster_->ctl("role revoke-permission --prefix node-host-1 /calico/");
  cluster_->kill_all();
  cluster_->start_all();
  ASSERT_TRUE(eventually("the reason", [&] {
    return agent.service().view().state().reason.find("user 'host-1' may not read ") != std::string::npos;
  })) << agent.describe();
  EXPECT_EQ(agent.service().view().range(model::kWorkloadEndpoints).size(),
            static_cast<std::size_t>(2 * kEndpointsOfAHost));
  cluster_->ctl("role grant-permission node-host-1 --prefix=true read /calico/");
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), std::set<std::string>{});
}

}  // namespace
}  // namespace calico::test

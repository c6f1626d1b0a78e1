// The control socket: questions, answers, errors, and nobody at home.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/module/control_client.hpp"
#include "core/module/control_server.hpp"

namespace calico::module {
namespace {

using testing::HasSubstr;

class ControlTest : public testing::Test {
 protected:
  ControlTest() : dir_(std::filesystem::temp_directory_path() / fmt::format("calico-control-{}", getpid())) {
    std::filesystem::create_directories(dir_);
  }
  ~ControlTest() override { std::filesystem::remove_all(dir_); }
  std::string socket() const { return (dir_ / "control.ctl").string(); }
  std::filesystem::path dir_;
};

TEST_F(ControlTest, AsksAndAnswers) {
  ControlServer server;
  server.handle("GET /echo", [](const ControlRequest& r) { return ControlReply{200, r.query.at("word") + r.body}; });
  server.handle("POST /fails", [](const ControlRequest&) -> ControlReply { throw std::runtime_error("no \"luck\""); });
  const auto ok = server.listen(socket());
  ASSERT_TRUE(ok) << ok.error().what;
  struct stat st {};
  ASSERT_EQ(stat(socket().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600U);

  auto reply = control_call(dir_.string(), "GET", "/echo?word=a%20b");
  ASSERT_TRUE(reply) << reply.error().what;
  EXPECT_EQ(reply->json, "a b");
  reply = control_call(dir_.string(), "POST", "/fails", "{}");
  ASSERT_TRUE(reply) << reply.error().what;
  EXPECT_EQ(reply->status, 500);
  EXPECT_EQ(reply->json, R"({"error":"no \"luck\""})");
  reply = control_call(dir_.string(), "GET", "/nothing");
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status, 404);
  EXPECT_THAT(reply->json, HasSubstr("GET /echo"));

  ControlServer second;
  EXPECT_FALSE(second.listen(socket())) << "two processes on one socket";
  server.stop();
  EXPECT_FALSE(control_call(dir_.string(), "GET", "/echo"));
}

TEST_F(ControlTest, NobodyThereIsUnavailable) {
  auto reply = control_call(dir_.string(), "GET", "/status");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Errc::unavailable);
  EXPECT_THAT(reply.error().what, HasSubstr("no calico-node answers at"));
}

}  // namespace
}  // namespace calico::module

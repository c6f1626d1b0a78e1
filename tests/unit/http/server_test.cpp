#include "core/http/server.hpp"

#include <sys/stat.h>

#include <random>

#include "tests/unit/http/fixture.hpp"

namespace calico::http {

TEST(HttpServer, AnswersOverOneKeptConnection) {
  Fixture f;
  auto& c = f.client();
  for (int i = 0; i < 3; ++i) {
    auto a = f.ask(c, {.method = "POST", .target = "/echo?x=a%20b&y=1+2&x", .body = "body"});
    ASSERT_TRUE(a) << a.error().what;
    EXPECT_EQ(a->status, 200U);
    EXPECT_EQ(a->body, "POST /echo x=a b y=1 2 x=\nbody");
    EXPECT_EQ(a->headers.get("content-type"), "text/plain; charset=utf-8");
  }
  EXPECT_EQ(f.stats().accepted, 1U);
  EXPECT_EQ(f.get(c, "/nothing")->status, 404U);
}

TEST(HttpServer, ManyRequestsAtOnceWaitForAConnection) {
  Fixture f;
  auto& c = f.client({.max_connections = 3});
  std::atomic<int> good{0};
  TaskGroup tasks(f.loop.executor(), "test");
  f.loop.call([&] {
    for (int i = 0; i < 20; ++i)
      tasks.spawn("ask", [&]() -> awaitable<void> {
        ClientRequest r{.target = "/slow"};
        auto a = co_await c.request(r);
        if (a && a->body == "late") ++good;
      });
  });
  ASSERT_TRUE(test::eventually("20 answers", [&] { return good == 20; }));
  EXPECT_LE(f.stats().accepted, 3U);
}

TEST(HttpServer, AHandlerThatThrowsIsA500AndTheServerGoesOn) {
  Fixture f;
  auto& c = f.client();
  EXPECT_EQ(f.get(c, "/throw")->status, 500U);
  EXPECT_EQ(f.get(c, "/bad-header")->status, 500U);
  EXPECT_EQ(f.get(c, "/echo")->status, 200U);
}

TEST(HttpServer, HeadAndHttp10) {
  Fixture f;
  auto& c = f.client();
  auto head = f.ask(c, {.method = "HEAD", .target = "/echo"});
  ASSERT_TRUE(head) << head.error().what;
  EXPECT_EQ(head->status, 200U);
  EXPECT_TRUE(head->body.empty());
  EXPECT_EQ(head->headers.get("Content-Length"), "11");
  EXPECT_EQ(f.get(c, "/echo")->body, "GET /echo\n");
  RawSocket raw(f.at());
  ASSERT_TRUE(raw.send("GET /lines HTTP/1.0\r\n\r\n"));
  const auto text = raw.receive();
  EXPECT_NE(text.find("\r\n\r\none\ntwo\r\nthree"), std::string::npos) << text;
  EXPECT_EQ(text.find("chunked"), std::string::npos) << text;
}

TEST(HttpServer, PipelinedRequestsAreAnsweredInOrder) {
  Fixture f;
  RawSocket raw(f.at());
  ASSERT_TRUE(raw.send(
      "GET /echo?n=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /echo?n=2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  const auto text = raw.receive();
  const auto one = text.find("n=1");
  const auto two = text.find("n=2");
  EXPECT_NE(one, std::string::npos) << text;
  EXPECT_NE(two, std::string::npos) << text;
  EXPECT_LT(one, two);
}

TEST(HttpServer, ContinueIsSentWhenExpected) {
  Fixture f;
  RawSocket raw(f.at());
  ASSERT_TRUE(raw.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_NE(raw.receive("100 Continue\r\n\r\n").find("100 Continue"), std::string::npos);
  ASSERT_TRUE(raw.send("hi"));
  EXPECT_NE(raw.receive("\nhi").find("\nhi"), std::string::npos);
}

TEST(HttpServer, LimitsHaveTheirAnswers) {
  Fixture f({.header_bytes = 2048, .body_bytes = 1000});
  auto& c = f.client();
  EXPECT_EQ(f.ask(c, {.method = "POST", .target = "/echo", .body = std::string(1000, 'x')})->status, 200U);
  EXPECT_EQ(f.ask(c, {.method = "POST", .target = "/echo", .body = std::string(1001, 'x')})->status, 413U);
  EXPECT_EQ(f.ask(c, {.method = "POST", .target = "/echo", .body = std::string(9'000'000, 'x')})->status, 413U);
  EXPECT_EQ(f.get(c, "/echo?" + std::string(3000, 'x'))->status, 431U);
  RawSocket chunked(f.at());
  ASSERT_TRUE(chunked.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"));
  for (int i = 0; i < 3; ++i) chunked.send("190\r\n" + std::string(400, 'x') + "\r\n");
  EXPECT_NE(chunked.receive().find(" 413 "), std::string::npos);
  EXPECT_EQ(f.get(c, "/echo")->status, 200U);
}

TEST(HttpServer, ASlowRequestIsEndedInTime) {
  Fixture f({.request_timeout = 300ms, .idle_timeout = 300ms});
  RawSocket nothing(f.at());
  RawSocket drip(f.at());
  RawSocket body(f.at());
  RawSocket idle(f.at());
  ASSERT_TRUE(idle.send("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(body.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"));
  const auto begin = std::chrono::steady_clock::now();
  std::string request = "GET /echo HTTP/1.1\r\nHost: x\r\nX-Slow: " + std::string(5000, 'x');
  bool refused = false;
  for (char ch : request) {  // never silent for long, never complete
    refused = !drip.send({&ch, 1});
    pollfd p{drip.fd(), POLLIN, 0};
    if (refused || ::poll(&p, 1, 20) > 0) break;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  EXPECT_NE(drip.receive().find(" 408 "), std::string::npos);
  EXPECT_NE(body.receive().find(" 408 "), std::string::npos);
  EXPECT_EQ(nothing.receive().find("<timeout>"), std::string::npos);
  EXPECT_NE(idle.receive().find(" 200 "), std::string::npos);  // closed after its answer
  EXPECT_TRUE(test::eventually("no connection left", [&] { return f.stats().connections == 0; }));
}

TEST(HttpServer, AtTheLimitAnIdleConnectionMakesRoom) {
  Fixture f({.max_connections = 2});
  RawSocket first(f.at());
  ASSERT_TRUE(first.send("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"));
  first.receive("GET /echo\n");
  RawSocket second(f.at());
  ASSERT_TRUE(second.send("GET /forever HTTP/1.1\r\nHost: x\r\n\r\n"));
  second.receive("hello");
  RawSocket third(f.at());
  ASSERT_TRUE(third.send("GET /forever HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_NE(third.receive("hello").find("hello"), std::string::npos);
  EXPECT_EQ(first.receive(), "");  // closed for the third
  ASSERT_TRUE(test::eventually("room for one more refused", [&] {
    RawSocket fourth(f.at());
    return fourth.receive().empty() && f.stats().refused > 0;
  }));
}

TEST(HttpServer, StreamsLinesAndEnds) {
  Fixture f;
  auto& c = f.client();
  auto l = f.open(c, {.target = "/lines"});
  ASSERT_TRUE(l) << l.error().what;
  EXPECT_EQ((*l)->head().status, 200U);
  EXPECT_EQ(f.line(**l).value(), "one");
  EXPECT_EQ(f.line(**l).value(), "two");
  EXPECT_EQ(f.line(**l).value(), "three");
  auto end = f.line(**l);
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, Errc::closed);
}

TEST(HttpServer, ABrokenStreamIsNotACompleteOne) {
  Fixture f;
  auto l = f.open(f.client(), {.target = "/break"});
  ASSERT_TRUE(l) << l.error().what;
  auto end = f.line(**l);
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, Errc::unavailable) << end.error().what;
}

TEST(HttpServer, ReadLineHasItsOwnDeadline) {
  Fixture f;
  auto l = f.open(f.client(), {.target = "/forever"});
  ASSERT_TRUE(l) << l.error().what;
  EXPECT_EQ(f.line(**l).value(), "hello");
  auto late = f.line(**l, 100ms);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::timeout);
  EXPECT_TRUE(test::eventually("the stream cancelled", [&] { return f.cancelled == 1 && f.running == 0; }));
}

TEST(HttpServer, APeerThatGoesCancelsItsStream) {
  Fixture f;
  {
    auto l = f.open(f.client(), {.target = "/forever"});
    ASSERT_TRUE(l) << l.error().what;
    EXPECT_EQ(f.line(**l).value(), "hello");
    EXPECT_EQ(f.running, 1);
    f.loop.call([&] { l->reset(); });
  }
  EXPECT_TRUE(test::eventually("the stream cancelled", [&] { return f.cancelled == 1 && f.running == 0; }));
  {
    RawSocket raw(f.at());
    ASSERT_TRUE(raw.send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"));
    raw.receive("xxxx");
    EXPECT_EQ(f.running, 1);
  }
  EXPECT_TRUE(test::eventually("the flood ended", [&] { return f.running == 0; }));
}

TEST(HttpServer, AReaderThatStopsReadingIsGivenUp) {
  Fixture f({.write_timeout = 300ms});
  RawSocket raw(f.at());
  ASSERT_TRUE(raw.send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(test::eventually("the flood", [&] { return f.running == 1; }));
  EXPECT_TRUE(test::eventually("the flood ended", [&] { return f.running == 0 && f.stats().connections == 0; }));
  f.loop.call([&] { EXPECT_EQ(f.flood_ended, "timeout"); });
}

TEST(HttpServer, TheRequestBodyMayStayOpen) {
  Fixture f;
  RawSocket raw(f.at());
  ASSERT_TRUE(raw.send("POST /json-stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"));
  EXPECT_NE(raw.receive("got {}").find("got {}"), std::string::npos);
  EXPECT_EQ(f.running, 1);
  ASSERT_TRUE(raw.send("0\r\n\r\n"));  // the body ends, the stream goes on
  EXPECT_EQ(f.cancelled, 0);
  ::shutdown(raw.fd(), SHUT_RDWR);
  EXPECT_TRUE(test::eventually("the stream cancelled", [&] { return f.cancelled == 1; }));
}

TEST(HttpServer, StopEndsStreamsAndHandlersAndIsAwaited) {
  Fixture f;
  RawSocket stream(f.at());
  RawSocket idle(f.at());
  ASSERT_TRUE(stream.send("GET /forever HTTP/1.1\r\nHost: x\r\n\r\n"));
  stream.receive("hello");
  run(f.loop, "stop", [&]() -> awaitable<void> { co_await f.server->stop(); });
  EXPECT_EQ(f.cancelled, 1);
  EXPECT_EQ(f.running, 0);
  EXPECT_EQ(f.stats().connections, 0U);
  EXPECT_EQ(idle.receive(), "");
  EXPECT_FALSE(RawSocket(f.at()).connected());
}

TEST(HttpServer, WhatIsNoRequestIsRefusedInTheServersShape) {
  ServerOptions options{.header_bytes = 4096, .body_bytes = 64};
  options.refusal = [](unsigned status, const std::string& what) {
    return Response::json(status, fmt::format(R"({{"status":{},"what":"{}"}})", status, what));
  };
  Fixture f(options);
  struct Row {
    std::string bytes;
    unsigned status;
  };
  for (const Row& row : {Row{"NONSENSE\r\n\r\n", 400}, Row{"GET /echo HTTP/1.1\r\n\r\n", 400},
                         Row{"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + std::string(8192, 'x') + "\r\n\r\n", 431},
                         Row{"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 65\r\n\r\n", 413}}) {
    RawSocket raw(f.at());
    ASSERT_TRUE(raw.send(row.bytes));
    const auto answer = raw.receive();
    EXPECT_NE(answer.find(fmt::format("HTTP/1.1 {} ", row.status)), std::string::npos) << answer;
    EXPECT_NE(answer.find("Content-Type: application/json"), std::string::npos) << answer;
    EXPECT_NE(answer.find(fmt::format(R"({{"status":{},)", row.status)), std::string::npos) << answer;
  }
}

TEST(HttpServer, UnixSocketKnowsItsPeerAndReplacesAStaleFile) {
  test::TempDir dir("http");
  const auto at = *Endpoint::parse("unix:" + dir.file("x.sock"));
  {
    Fixture f({}, {.at = at, .mode = 0600});
    struct stat st {};
    ASSERT_EQ(::stat(at.unix_path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0600U);
    EXPECT_EQ(f.get(f.client(), "/peer")->body,
              fmt::format("via=unix identity= certified=false cn= uid={}", ::getuid()));
    Loop loop("second");
    Server second(loop.executor(), {}, [](Request) -> awaitable<Response> { co_return Response(); });
    auto busy = second.listen({.at = at});
    ASSERT_FALSE(busy);
    EXPECT_EQ(busy.error().code, Errc::exists);
    EXPECT_EQ(f.get(f.client(), "/echo")->status, 200U);  // still the first one's
  }
  EXPECT_FALSE(std::filesystem::exists(at.unix_path));
  {  // a file left by a process that died
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un un{};
    un.sun_family = AF_UNIX;
    std::strncpy(un.sun_path, at.unix_path.c_str(), sizeof un.sun_path - 1);
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&un), sizeof un), 0);
    ::close(fd);
  }
  Fixture again({}, {.at = at});
  EXPECT_EQ(again.get(again.client(), "/echo")->status, 200U);
}

TEST(HttpServer, AnAddressInUseIsOneClearLine) {
  Fixture f;
  Loop loop("second");
  Server second(loop.executor(), {}, [](Request) -> awaitable<Response> { co_return Response(); });
  auto busy = second.listen({.at = f.at()});
  ASSERT_FALSE(busy);
  EXPECT_EQ(busy.error().code, Errc::exists);
  EXPECT_EQ(busy.error().what, "listen on " + f.at().to_string() + ": the address is in use by another program");
  auto absent = second.listen({.at = *Endpoint::parse("192.0.2.1:0")});
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, Errc::unavailable) << absent.error().what;
  EXPECT_FALSE(second.listen({.at = *Endpoint::parse("localhost:0")}));
}

TEST(HttpServer, MalformedRequestsAreRefused) {
  Fixture f;
  for (const char* bad :
       {"\r\n\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /echo HTTP/1.1\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /echo?a=%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET echo HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost x\r\n\r\n", "G@T / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"}) {
    RawSocket raw(f.at());
    ASSERT_TRUE(raw.send(bad));
    const auto text = raw.receive();
    EXPECT_TRUE(text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5")) << bad << " -> " << text;
  }
  EXPECT_EQ(f.get(f.client(), "/echo")->status, 200U);
}

/// Its end arrives while the server waits for the body: the stream that answers must still hear of it.
TEST(HttpServer, APeerThatEndsInsideItsBodyEndsTheStreamThatAnswers) {
  Fixture f;
  RawSocket raw(f.at());
  ASSERT_TRUE(raw.connected());
  raw.send("POST /json-stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  // One loop serves both: when this one is answered, the other one waits.
  for (int i = 0; i < 3; ++i) EXPECT_EQ(f.get(f.client(), "/echo")->status, 200U);
  ::shutdown(raw.fd(), SHUT_WR);
  const auto text = raw.receive();
  EXPECT_NE(text.find("got nothing"), std::string::npos) << text;
  EXPECT_EQ(text.find("<timeout>"), std::string::npos) << text;
  EXPECT_TRUE(test::eventually("the stream's end", [&] { return f.running == 0; }));
}

TEST(HttpServer, ChangedBytesNeverHurt) {
  Fixture f({.body_bytes = 10'000, .request_timeout = 2s, .idle_timeout = 2s});
  const std::string seeds[] = {
      "GET /echo?a=b%20c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n",
      "POST /json-stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"};
  std::mt19937 random(4711);
  for (int i = 0; i < 1500; ++i) {
    std::string bytes = seeds[random() % std::size(seeds)];
    for (unsigned n = random() % 4; n > 0; --n) {
      const auto at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.insert(at, std::string(1 + random() % 3, static_cast<char>(random())));
      }
      if (bytes.empty()) bytes = "x";
    }
    RawSocket raw(f.at());
    ASSERT_TRUE(raw.connected());
    raw.send(bytes);
    ::shutdown(raw.fd(), SHUT_WR);
    const auto text = raw.receive();
    ASSERT_EQ(text.find("<timeout>"), std::string::npos) << bytes;
    ASSERT_TRUE(text.empty() || text.starts_with("HTTP/1.1 ")) << text;
  }
  EXPECT_EQ(f.get(f.client(), "/echo")->status, 200U);
  EXPECT_TRUE(test::eventually("streams ended", [&] { return f.running == 0; }));
}

TEST(HttpClient, GoesOnToTheNextEndpoint) {
  Fixture f;
  // A port that was ours a moment ago: nobody listens there.
  auto dead = f.at();
  {
    Fixture other;
    dead = other.at();
  }
  auto& c = f.client({.endpoints = {dead, f.at()}});
  EXPECT_EQ(f.get(c, "/echo")->from, f.at());
  EXPECT_EQ(f.loop.call([&] { return c.current(); }), f.at());
  auto& none = f.client({.endpoints = {dead, dead}});
  auto failed = f.get(none, "/echo");
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Errc::unavailable);
  EXPECT_EQ(failed.error().what, fmt::format("{0}: Connection refused; {0}: Connection refused", dead.to_string()));
}

TEST(HttpClient, ASilentServerIsATimeoutAndTheNextRequestGoesElsewhere) {
  Fixture f;
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);  // accepts in the kernel, never answers
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&in), sizeof in), 0);
  ASSERT_EQ(::listen(fd, 5), 0);
  socklen_t size = sizeof in;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&in), &size);
  auto& c = f.client({.endpoints = {*Endpoint::parse(fmt::format("127.0.0.1:{}", ntohs(in.sin_port))), f.at()}});
  auto late = f.ask(c, {.target = "/echo", .timeout = 200ms});
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::timeout) << late.error().what;
  EXPECT_EQ(f.get(c, "/echo")->from, f.at());
  ::close(fd);
}

TEST(HttpClient, AConnectionClosedWhileIdleIsReplaced) {
  Fixture f({.idle_timeout = 50ms});
  auto& c = f.client();
  EXPECT_EQ(f.get(c, "/echo")->status, 200U);
  ASSERT_TRUE(test::eventually("the idle connection closed", [&] { return f.stats().connections == 0; }));
  EXPECT_EQ(f.get(c, "/echo")->status, 200U);
  EXPECT_EQ(f.stats().accepted, 2U);
}

TEST(HttpClient, HostileAnswersAreErrors) {
  struct Row {
    const char* answer;
    Errc code;
  };
  for (const Row& row :
       {Row{"", Errc::unavailable}, Row{"garbage\r\n\r\n", Errc::invalid},
        Row{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", Errc::unavailable},
        Row{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\nabc", Errc::exhausted},
        Row{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nabc", Errc::exhausted},
        Row{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc", Errc::invalid}}) {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&in), sizeof in), 0);
    ASSERT_EQ(::listen(fd, 5), 0);
    socklen_t size = sizeof in;
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&in), &size);
    std::thread peer([&] {
      const int s = ::accept(fd, nullptr, nullptr);
      char buffer[4096];
      (void)!::recv(s, buffer, sizeof buffer, 0);
      (void)!::send(s, row.answer, std::strlen(row.answer), MSG_NOSIGNAL);
      ::shutdown(s, SHUT_WR);
      (void)!::recv(s, buffer, sizeof buffer, 0);
      ::close(s);
    });
    Loop loop("test");
    loop.start();
    auto c = Client::create(loop.executor(),
                            {.endpoints = {*Endpoint::parse(fmt::format("127.0.0.1:{}", ntohs(in.sin_port)))}});
    ASSERT_TRUE(c);
    auto a = run(loop, "answer", [&]() -> awaitable<Result<Answer>> {
      ClientRequest r{.target = "/"};
      co_return co_await (*c)->request(r);
    });
    EXPECT_FALSE(a) << row.answer;
    if (!a) {
      EXPECT_EQ(a.error().code, row.code) << row.answer << ": " << a.error().what;
    }
    peer.join();
    loop.call([&] { c->reset(); });
    loop.stop();
    ::close(fd);
  }
}

TEST(HttpClient, NothingUncleanIsSent) {
  Fixture f;
  auto& c = f.client();
  EXPECT_FALSE(f.get(c, "/a b"));
  EXPECT_FALSE(f.get(c, "/a\r\nX: y"));
  EXPECT_FALSE(f.ask(c, {.target = "/echo", .headers = {{"X", "a\r\nY: b"}}}));
  EXPECT_EQ(f.stats().accepted, 0U);
}

}  // namespace calico::http

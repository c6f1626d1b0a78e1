#include "core/http/message.hpp"

#include <gtest/gtest.h>

namespace calico::http {

TEST(Endpoint, ParsesAndPrints) {
  struct Row {
    const char* text;
    const char* printed;
  };
  for (const Row& r :
       {Row{"https://192.168.0.2:2379", "https://192.168.0.2:2379"}, Row{"http://localhost:1/", "http://localhost:1"},
        Row{"10.0.0.1:80", "http://10.0.0.1:80"}, Row{"[2001:DB8::0:1]:2379", "http://[2001:db8::1]:2379"},
        Row{"https://[::1]:0", "https://[::1]:0"}, Row{"unix:/run/x.sock", "unix:/run/x.sock"},
        Row{"unix:///run/x.sock", "unix:/run/x.sock"}}) {
    auto e = Endpoint::parse(r.text);
    ASSERT_TRUE(e) << r.text << ": " << e.error().what;
    EXPECT_EQ(e->to_string(), r.printed);
    EXPECT_EQ(*Endpoint::parse(e->to_string()), *e);
  }
  EXPECT_EQ(Endpoint::parse("https://a", 2379)->port, 2379);
  EXPECT_EQ(Endpoint::parse("[::1]", 80)->host, "::1");
}

TEST(Endpoint, RefusesWhatIsNotOne) {
  for (const char* bad :
       {"", "https://", "a", "a:", ":1", "a:65536", "a:-1", "a:1x", "http://a:1/path", "ftp://a:1", "[::1", "[::1]x:1",
        "[1.2.3.4]:1", "a b:1", "a\n:1", "::1:80", "unix:", "unix:relative", "http://user@host:1"})
    EXPECT_FALSE(Endpoint::parse(bad)) << bad;
  EXPECT_FALSE(Endpoint::parse("unix:/" + std::string(107, 'x')));
}

TEST(Headers, NamesHaveNoCase) {
  Headers h{{"Content-Type", "a"}, {"X-Y", "1"}};
  h.add("x-y", "2");
  EXPECT_EQ(h.get("CONTENT-TYPE"), "a");
  EXPECT_EQ(h.get("x-Y"), "1");
  EXPECT_FALSE(h.get("x"));
  h.set("X-y", "3");
  EXPECT_EQ(h.size(), 2U);
  EXPECT_EQ(h.get("X-Y"), "3");
}

TEST(Percent, DecodesStrictly) {
  EXPECT_EQ(percent_decode("a%20b%2Fc+d", false).value(), "a b/c+d");
  EXPECT_EQ(percent_decode("a+b", true).value(), "a b");
  for (const char* bad : {"%", "%2", "%zz", "%00", "a%2"}) EXPECT_FALSE(percent_decode(bad, false)) << bad;
  EXPECT_EQ(percent_encode("a b/ü"), "a%20b%2F%C3%BC");
}

TEST(Reason, KnownAndUnknown) {
  EXPECT_EQ(reason_phrase(404), "Not Found");
  EXPECT_EQ(reason_phrase(799), "Unknown");
}

}  // namespace calico::http

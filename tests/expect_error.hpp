// Errors as users meet them: of the right kind, one line, with what matters in it.
#pragma once

#include <gtest/gtest.h>

#include <string>

namespace gradview {

// `call` throws an E of one line with `fragment` in it.
template <class E, class Call>
void expect_error(const std::string& fragment, Call call) {
  try {
    call();
    ADD_FAILURE() << "no error, expected one with: " << fragment;
  } catch (const E& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(fragment), message.npos) << message;
    EXPECT_EQ(message.find('\n'), message.npos) << message;
  }
}

}  // namespace gradview

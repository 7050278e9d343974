// How a test library exports functions to ctypes: each returns null or its error message.
#pragma once

#include <exception>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

template <class Function>
const char* message_of(Function function) {
  static std::string message;
  try {
    function();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

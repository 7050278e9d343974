// How a test library offers functions to ctypes: each returns null or the message of its error.
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

// What every simulated machine needs to be run by another program over stdin and stdout (sim/machine/program.py).
//
// A request is a 32-bit length, then so many bytes: the command and its arguments. An answer is a 32-bit length, then a
// status and a result, or what went wrong as text. All numbers are little-endian. Everything a command can meet is an
// answer; the process ends when its input does, or with a request it cannot even read.
//
// One source file of a program includes this: it defines what Verilator's run time calls when the circuit stops.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "verilated.h"

namespace machine {

// A request of the program that cannot be served.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::string hex(std::uint64_t value) {
    char text[2 + 16 + 1];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

// -- What Verilator's run time does when the circuit stops ------------------------------------------------------------

struct Stopped : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::string stop_message;  // of the first assertion that failed in the evaluation under way

inline void remember_stop(const char* file, int line, const std::string& text) {
    if (stop_message.empty()) stop_message = text + " (" + file + ":" + std::to_string(line) + ")";
}

}  // namespace machine

void vl_stop(const char* file, int line, const char* scope) VL_MT_UNSAFE {
    machine::remember_stop(file, line, std::string("the circuit stopped the simulation in ") + scope);
}

void vl_finish(const char* file, int line, const char*) VL_MT_UNSAFE {
    machine::remember_stop(file, line, "the circuit finished the simulation");
}

void vl_fatal(const char* file, int line, const char*, const char* message) VL_MT_UNSAFE {
    throw machine::Stopped(std::string(message) + " (" + file + ":" + std::to_string(line) + ")");
}

namespace machine {

// -- Messages ---------------------------------------------------------------------------------------------------------

constexpr std::size_t kLongest = std::size_t{1} << 28;

class Input {
public:
    explicit Input(const std::vector<std::uint8_t>& bytes) : next_(bytes.data()), end_(next_ + bytes.size()) {}

    template <class T>
    T number() {
        T value;
        std::memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }

    std::size_t left() const { return static_cast<std::size_t>(end_ - next_); }

    const std::uint8_t* take(std::size_t size) {
        if (size > left()) throw Refused("the request is too short");
        const std::uint8_t* here = next_;
        next_ += size;
        return here;
    }

    void end() const {
        if (left() != 0) throw Refused("the request is too long");
    }

private:
    const std::uint8_t* next_;
    const std::uint8_t* end_;
};

class Output {
public:
    template <class T>
    void number(T value) {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(&value);
        bytes_.insert(bytes_.end(), bytes, bytes + sizeof value);
    }

    void text(const std::string& text) { bytes_.insert(bytes_.end(), text.begin(), text.end()); }

    std::uint8_t* room(std::size_t size) {
        bytes_.resize(bytes_.size() + size);
        return bytes_.data() + bytes_.size() - size;
    }

    void clear() { bytes_.clear(); }

    const std::vector<std::uint8_t>& bytes() const { return bytes_; }

private:
    std::vector<std::uint8_t> bytes_;
};

// False at the end of the input.
inline bool read_exactly(int file, void* data, std::size_t size) {
    auto* next = static_cast<std::uint8_t*>(data);
    while (size != 0) {
        const ssize_t got = ::read(file, next, size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        next += got;
        size -= static_cast<std::size_t>(got);
    }
    return true;
}

inline bool write_exactly(int file, const void* data, std::size_t size) {
    const auto* next = static_cast<const std::uint8_t*>(data);
    while (size != 0) {
        const ssize_t put = ::write(file, next, size);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        next += put;
        size -= static_cast<std::size_t>(put);
    }
    return true;
}

// The whole of a program: what `make()` makes has `serve(request, result)`, which returns a status of one byte.
template <class Make>
int answer_requests(Make make) {
    // What the circuit prints must not mix with the answers.
    const int output = ::dup(STDOUT_FILENO);
    if (output < 0 || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return 2;
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    try {
        auto machine = make();
        std::vector<std::uint8_t> request;
        Output result;
        std::uint32_t length = 0;
        while (read_exactly(STDIN_FILENO, &length, sizeof length)) {
            if (length == 0 || length > kLongest + 64) {
                std::fprintf(stderr, "a request of %u bytes\n", length);
                return 2;
            }
            request.resize(length);
            if (!read_exactly(STDIN_FILENO, request.data(), length)) return 2;
            const auto status = machine.serve(request, result);
            static_assert(sizeof status == 1);
            const auto size = static_cast<std::uint32_t>(result.bytes().size() + 1);
            if (!write_exactly(output, &size, sizeof size) || !write_exactly(output, &status, sizeof status) ||
                !write_exactly(output, result.bytes().data(), result.bytes().size())) {
                return 2;
            }
        }
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}

}  // namespace machine

// A Verilated board, run by another program (sim/board/simulated_board.py): its clock, its serial line, its supply.
// Requests and answers are as sim/machine/messages.h has them.
//
// A cycle begins before a rising edge of the clock: the level of the line is set, the clock rises, and what the circuit
// says then is looked at.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "messages.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

using machine::Input;
using machine::kLongest;
using machine::Output;
using machine::Refused;
using machine::Stopped;

enum class Status : std::uint8_t {
    kOk = 0,
    kRefused = 1,  // the request makes no sense; nothing happened
    kBreach = 2,   // a rule of the SDRAM was broken: its number, and at which edge
    kStopped = 3,  // an assertion of the circuit failed
};

enum class Command : std::uint8_t {
    kInfo = 0,
    kSend = 1,
    kRun = 2,
    kReceive = 3,
    kSetDivisor = 4,
    kHold = 5,
    kConnect = 6,
    kReset = 7,
    kStatistics = 8,
    kReadMemory = 9,
    kWriteMemory = 10,
    kForget = 11,
};

// A rule of the SDRAM was broken.
struct Breach : std::runtime_error {
    using std::runtime_error::runtime_error;
};

constexpr std::uint32_t kResetCycles = 24;  // of a reset that the board makes of its button, and to see the button
constexpr int kBits = 10;  // of a byte on the line: start, data, stop

// The host's end of the line to the board.
class Sender {
public:
    double divisor = 4;
    std::deque<std::uint8_t> waiting;

    bool busy() const { return bit_ < kBits || !waiting.empty(); }

    void clear() {
        waiting.clear();
        bit_ = kBits;
        left_ = 0;
    }

    // The level in the next cycle.
    bool next() {
        if (left_ < 1) {
            if (bit_ < kBits) ++bit_;
            if (bit_ == kBits && !waiting.empty()) {
                frame_ = 1u << (kBits - 1) | unsigned{waiting.front()} << 1;
                waiting.pop_front();
                bit_ = 0;
            }
            left_ = bit_ < kBits ? left_ + divisor : 1;
        }
        left_ -= 1;
        return bit_ == kBits || (frame_ >> bit_ & 1);
    }

private:
    int bit_ = kBits;
    double left_ = 0;  // cycles of the bit
    unsigned frame_ = 0;
};

// The host's end of the line from the board: each bit is looked at in its middle.
class Receiver {
public:
    double divisor = 4;
    std::deque<std::uint8_t> received;
    std::uint64_t bytes = 0;
    std::uint64_t framing_errors = 0;

    void clear() {
        received.clear();
        bit_ = kBits;
        idle_ = true;
    }

    void take(bool level) {
        idle_ |= level;
        if (bit_ == kBits) {
            if (level || !idle_) return;
            bit_ = 0;
            frame_ = 0;
            wait_ = divisor / 2;
        }
        wait_ -= 1;
        if (wait_ >= 0) return;
        wait_ += divisor;
        frame_ |= unsigned{level} << bit_;
        if (bit_ == 0 && level) {
            bit_ = kBits;  // a start bit that has gone in its middle was none
            return;
        }
        if (++bit_ < kBits) return;
        if (level) {
            received.push_back(static_cast<std::uint8_t>(frame_ >> 1));
            ++bytes;
        } else {
            ++framing_errors;
            idle_ = false;  // the next byte begins after the line was high
        }
    }

private:
    int bit_ = kBits;
    bool idle_ = true;
    double wait_ = 0;
    unsigned frame_ = 0;
};

struct Statistics {
    std::uint64_t activations = 0;
    std::uint64_t refreshes = 0;
    std::uint64_t read_words = 0;
    std::uint64_t written_words = 0;
};

class Board {
public:
    Board(const char* wave, int seed) : top_(power_up(context_, seed)) {
#if VM_TRACE
        if (*wave != 0) {
            context_.traceEverOn(true);
            wave_ = std::make_unique<VerilatedVcdC>();
            top_->trace(wave_.get(), 99);
            wave_->open(wave);
        }
#else
        (void)wave;
#endif
        top_->rx = 1;
    }

    ~Board() {
#if VM_TRACE
        if (wave_) wave_->close();
#endif
        try {
            top_->final();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s\n", error.what());
        }
    }

    Board(const Board&) = delete;
    Board& operator=(const Board&) = delete;

    // Serve one request; the answer is in `output`.
    Status serve(const std::vector<std::uint8_t>& request, Output& output) {
        output.clear();
        try {
            Input input(request);
            obey(input, output);
            return Status::kOk;
        } catch (const Refused& error) {
            return answer(Status::kRefused, error.what(), output);
        } catch (const Breach&) {
            output.clear();
            output.number<std::uint8_t>(top_->breach);
            output.number<std::uint32_t>(top_->breach_edge);
            return Status::kBreach;
        } catch (const Stopped& error) {
            if (!stopped_) stopped_ = "cycle " + std::to_string(cycle_) + ": " + error.what();
            return answer(Status::kStopped, *stopped_, output);
        }
    }

private:
    // With a seed, what has no initial value starts at random.
    static std::unique_ptr<Vtop> power_up(VerilatedContext& context, int seed) {
        context.randReset(seed == 0 ? 0 : 2);
        context.randSeed(seed);
        return std::make_unique<Vtop>(&context);
    }

    static Status answer(Status status, const std::string& text, Output& output) {
        output.clear();
        output.text(text);
        return status;
    }

    void obey(Input& input, Output& output) {
        const auto command = static_cast<Command>(input.number<std::uint8_t>());
        switch (command) {
        case Command::kInfo:
            input.end();
            output.number<std::uint64_t>(cycle_);
            output.number<std::uint8_t>(static_cast<std::uint8_t>(top_->alive | top_->busy << 1 | top_->error << 2 |
                                                                  top_->link << 3));
            output.number<std::uint32_t>(static_cast<std::uint32_t>(receiver_.received.size()));
            output.number<std::uint32_t>(static_cast<std::uint32_t>(sender_.waiting.size()));
            return;
        case Command::kSend: {
            const std::size_t size = input.left();
            const std::uint8_t* bytes = input.take(size);
            if (connected_) sender_.waiting.insert(sender_.waiting.end(), bytes, bytes + size);
            return;
        }
        case Command::kRun: return run(input, output);
        case Command::kReceive: {
            const std::size_t most = input.number<std::uint32_t>();
            input.end();
            const std::size_t size = std::min(most, receiver_.received.size());
            std::copy_n(receiver_.received.begin(), size, output.room(size));
            receiver_.received.erase(receiver_.received.begin(), receiver_.received.begin() + std::ptrdiff_t(size));
            return;
        }
        case Command::kSetDivisor: {
            const auto divisor = input.number<double>();
            input.end();
            if (!(divisor >= 1)) throw Refused("a bit takes at least a cycle");
            sender_.divisor = receiver_.divisor = divisor;
            return;
        }
        case Command::kHold: {
            const auto low = input.number<std::uint8_t>();
            input.end();
            held_low_ = low;
            return;
        }
        case Command::kConnect: {
            const auto connected = input.number<std::uint8_t>();
            input.end();
            connected_ = connected;
            sender_.clear();
            receiver_.clear();
            return;
        }
        case Command::kForget: {
            const auto sent = input.number<std::uint8_t>();
            input.end();
            // What has left is on the line.
            if (sent) {
                sender_.waiting.clear();
            } else {
                receiver_.received.clear();
            }
            return;
        }
        case Command::kReset: {
            const auto cycles = input.number<std::uint32_t>();
            const auto power_off = input.number<std::uint8_t>();
            input.end();
            return reset(cycles, power_off);
        }
        case Command::kStatistics: return statistics(input, output);
        case Command::kReadMemory: {
            const auto first = input.number<std::uint32_t>();
            const auto [address, size] = range(first, input.number<std::uint32_t>());
            input.end();
            std::uint8_t* bytes = output.room(size);
            for (std::size_t i = 0; i < size; ++i) {
                bytes[i] = static_cast<std::uint8_t>(word(address + i) >> (address + i) % 2 * 8);
            }
            return;
        }
        case Command::kWriteMemory: {
            const auto first = input.number<std::uint32_t>();
            const auto [address, size] = range(first, input.left());
            const std::uint8_t* bytes = input.take(size);
            for (std::size_t i = 0; i < size; ++i) {
                const unsigned shift = (address + i) % 2 * 8;
                auto& place = word(address + i);
                place = static_cast<std::uint16_t>((place & ~(0xffu << shift)) | unsigned{bytes[i]} << shift);
            }
            return;
        }
        }
        throw Refused("there is no such command");
    }

    // -- The SDRAM's content ------------------------------------------------------------------------------------------

    auto& memory() { return top_->rootp->board_system__DOT__part__DOT__model__DOT__memory; }

    SData& word(std::size_t address) { return memory()[address / 2]; }

    std::pair<std::size_t, std::size_t> range(std::size_t address, std::size_t size) {
        if (size >= kLongest) throw Refused("so many bytes do not fit one message");
        if (address + size > 2 * std::size_t{memory().size()}) throw Refused("the SDRAM has no such bytes");
        return {address, size};
    }

    // -- Time ---------------------------------------------------------------------------------------------------------

    void step() {
        if (stopped_) throw Stopped(*stopped_);
        if (top_->breach != 0) throw Breach("");
        const bool level = sender_.next();
        top_->rx = connected_ ? level && !held_low_ : 1;
        evaluate(0);
        count();
        evaluate(1);
        ++cycle_;
        if (connected_) receiver_.take(top_->tx);
    }

    void count() {
        statistics_.activations += top_->command == 3;
        statistics_.refreshes += top_->command == 1;
        statistics_.read_words += top_->reads;
        statistics_.written_words += top_->writes;
    }

    void evaluate(std::uint8_t clock) {
        top_->clk = clock;
        top_->eval();
#if VM_TRACE
        if (wave_) wave_->dump(cycle_ * 1000 + clock * 500);
#endif
        if (!machine::stop_message.empty()) throw Stopped(std::exchange(machine::stop_message, {}));
    }

    // The button, or all of the supply. The host does not notice.
    void reset(std::uint32_t cycles, bool power_off) {
        if (cycles < 2) throw Refused("a reset takes at least 2 cycles");
        stopped_.reset();
        machine::stop_message.clear();
        top_->rst = power_off;
        top_->power_off = power_off;
        top_->button = !power_off;
        for (std::uint32_t i = 0; i < cycles + kResetCycles; ++i) {
            if (i == cycles) top_->rst = top_->power_off = top_->button = 0;
            const bool level = sender_.next();
            top_->rx = connected_ ? level && !held_low_ : 1;
            try {
                evaluate(0);
                evaluate(1);
            } catch (const Stopped&) {
                // What has failed fails until the reset has come to it.
            }
            ++cycle_;
            if (connected_) receiver_.take(top_->tx);
        }
    }

    // Arguments: most cycles, the number of received bytes that ends it (0: none does), whether it ends when all is
    // sent, and the most milliseconds of real time.
    void run(Input& input, Output& output) {
        const auto cycles = input.number<std::uint64_t>();
        const auto bytes = input.number<std::uint32_t>();
        const auto until_sent = input.number<std::uint8_t>();
        const auto milliseconds = input.number<std::uint32_t>();
        input.end();
        enum Reason : std::uint8_t { kCycles = 0, kTime = 1, kReceived = 2, kSent = 3 };
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
        const std::uint64_t end = cycle_ + cycles;
        std::uint64_t steps = 0;
        Reason reason = kCycles;
        for (;;) {
            if (bytes != 0 && receiver_.received.size() >= bytes) {
                reason = kReceived;
                break;
            }
            if (until_sent && !sender_.busy()) {
                reason = kSent;
                break;
            }
            if (cycle_ >= end) break;
            if (++steps % 64 == 0 && std::chrono::steady_clock::now() >= deadline) {
                reason = kTime;
                break;
            }
            step();
        }
        output.number<std::uint8_t>(reason);
        output.number<std::uint64_t>(cycle_);
    }

    void statistics(Input& input, Output& output) {
        const auto clear = input.number<std::uint8_t>();
        input.end();
        output.number(statistics_.activations);
        output.number(statistics_.refreshes);
        output.number(statistics_.read_words);
        output.number(statistics_.written_words);
        output.number(receiver_.bytes);
        output.number(receiver_.framing_errors);
        if (clear) {
            statistics_ = {};
            receiver_.bytes = receiver_.framing_errors = 0;
        }
    }

    VerilatedContext context_;
    std::unique_ptr<Vtop> top_;
    Sender sender_;
    Receiver receiver_;
    Statistics statistics_;
    bool connected_ = true;
    bool held_low_ = false;
    std::uint64_t cycle_ = 0;
    std::optional<std::string> stopped_;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> wave_;
#endif
};

}  // namespace

// Arguments: the waveform's file or nothing, and a seed or 0.
int main(int count, char** arguments) {
    return machine::answer_requests(
        [&] { return Board(count > 1 ? arguments[1] : "", count > 2 ? std::atoi(arguments[2]) : 0); });
}

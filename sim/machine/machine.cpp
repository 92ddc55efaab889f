// A Verilated accelerator with its memory, run by another program over stdin and stdout (sim/machine/machine.py).
// Requests and answers are as sim/machine/messages.h has them.
#include <chrono>
#include <cstdlib>
#include <optional>

#include "machine_memory.h"
#include "messages.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

using machine::Channel;
using machine::hex;
using machine::Input;
using machine::kBeatBytes;
using machine::kChannels;
using machine::kLongest;
using machine::kNever;
using machine::Output;
using machine::Refused;
using machine::Stopped;
using machine::Violation;

// -- Messages ---------------------------------------------------------------------------------------------------------

enum class Status : std::uint8_t {
    kOk = 0,
    kRefused = 1,     // the request makes no sense; nothing happened
    kBusError = 2,    // a register answered with an error response, given as the first byte of the text
    kBusTimeout = 3,  // a register did not answer
    kViolation = 4,   // the circuit broke the AXI protocol
    kStopped = 5,     // an assertion of the circuit failed
};

enum class Command : std::uint8_t {
    kInfo = 0,
    kWriteRegister = 1,
    kReadRegister = 2,
    kWriteMemory = 3,
    kReadMemory = 4,
    kRun = 5,
    kSetMemory = 6,
    kFault = 7,
    kStop = 8,
    kBackPressure = 9,
    kReset = 10,
    kStatistics = 11,
    kAllow = 12,
    kOutside = 13,
    kHashOutputs = 14,
};

struct BusError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct BusTimeout : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// -- The register bus -------------------------------------------------------------------------------------------------

// The master of the AXI4-Lite port, with one access at a time, and a checker of the slave.
class RegisterBus {
public:
    explicit RegisterBus(const machine::RegisterPins& pins) : pins_(pins) {}

    machine::Dice dice;

    bool busy() const { return phase_ != Phase::kIdle; }

    void start(bool is_write, std::uint32_t address, std::uint32_t data, std::uint8_t strobe) {
        phase_ = is_write ? Phase::kWrite : Phase::kRead;
        address_ = address;
        data_ = data;
        strobe_ = strobe;
        address_open_ = true;
        data_open_ = is_write;
    }

    std::uint8_t response() const { return response_; }
    std::uint32_t data() const { return data_; }

    void reset() {
        phase_ = Phase::kIdle;
        *pins_.awvalid = *pins_.wvalid = *pins_.arvalid = *pins_.bready = *pins_.rready = 0;
        write_held_ = read_held_ = false;
    }

    void drive() {
        const bool writes = phase_ == Phase::kWrite;
        const bool reads = phase_ == Phase::kRead;
        if (writes && address_open_ && !*pins_.awvalid && dice.go()) {
            *pins_.awaddr = static_cast<std::remove_reference_t<decltype(*pins_.awaddr)>>(address_);
            *pins_.awprot = 0;
            *pins_.awvalid = 1;
        }
        if (writes && data_open_ && !*pins_.wvalid && dice.go()) {
            *pins_.wdata = data_;
            *pins_.wstrb = strobe_;
            *pins_.wvalid = 1;
        }
        if (reads && address_open_ && !*pins_.arvalid && dice.go()) {
            *pins_.araddr = static_cast<std::remove_reference_t<decltype(*pins_.araddr)>>(address_);
            *pins_.arprot = 0;
            *pins_.arvalid = 1;
        }
        *pins_.bready = writes && dice.go();
        *pins_.rready = reads && dice.go();
    }

    void sample() {
        const bool writes = phase_ == Phase::kWrite;
        const bool reads = phase_ == Phase::kRead;
        if (write_held_ && !*pins_.bvalid) throw Violation("registers B: BVALID fell before BREADY");
        if (read_held_ && !*pins_.rvalid) throw Violation("registers R: RVALID fell before RREADY");
        if (write_held_ && *pins_.bresp != held_response_) {
            throw Violation("registers B: BRESP changed before BREADY");
        }
        if (read_held_ && (*pins_.rdata != held_data_ || *pins_.rresp != held_response_)) {
            throw Violation("registers R: RDATA or RRESP changed before RREADY");
        }
        if (*pins_.bvalid && (!writes || address_open_ || data_open_)) {
            throw Violation("registers B: BVALID is high without a write that was taken");
        }
        if (*pins_.rvalid && (!reads || address_open_)) {
            throw Violation("registers R: RVALID is high without a read that was taken");
        }
        write_held_ = *pins_.bvalid && !*pins_.bready;
        read_held_ = *pins_.rvalid && !*pins_.rready;
        held_data_ = *pins_.rdata;
        held_response_ = writes ? *pins_.bresp : *pins_.rresp;
        if (*pins_.awvalid && *pins_.awready) address_open_ = false, taken_address_ = true;
        if (*pins_.wvalid && *pins_.wready) data_open_ = false, taken_data_ = true;
        if (*pins_.arvalid && *pins_.arready) address_open_ = false, taken_address_ = true;
        if (*pins_.bvalid && *pins_.bready) {
            response_ = *pins_.bresp;
            phase_ = Phase::kIdle;
        }
        if (*pins_.rvalid && *pins_.rready) {
            response_ = *pins_.rresp;
            data_ = *pins_.rdata;
            phase_ = Phase::kIdle;
        }
    }

    // After the clock edge: what was taken is no longer valid.
    void finish() {
        if (taken_address_) *pins_.awvalid = *pins_.arvalid = 0;
        if (taken_data_) *pins_.wvalid = 0;
        taken_address_ = taken_data_ = false;
    }

private:
    enum class Phase { kIdle, kWrite, kRead };

    machine::RegisterPins pins_;
    Phase phase_ = Phase::kIdle;
    std::uint32_t address_ = 0;
    std::uint32_t data_ = 0;
    std::uint8_t strobe_ = 15;
    bool address_open_ = false;
    bool data_open_ = false;
    bool taken_address_ = false;
    bool taken_data_ = false;
    bool write_held_ = false;
    bool read_held_ = false;
    std::uint32_t held_data_ = 0;
    std::uint8_t held_response_ = 0;
    std::uint8_t response_ = 0;
};

// -- The machine ------------------------------------------------------------------------------------------------------

class Machine {
public:
    Machine(const char* wave, int seed) : top_(power_up(context_, seed)), bus_(machine::register_pins(*top_)) {
        const auto pins = machine::channel_pins(*top_);
        channels_.reserve(kChannels);
        for (unsigned c = 0; c < kChannels; ++c) channels_.emplace_back(c, pins[c], outside_);
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
    }

    ~Machine() {
#if VM_TRACE
        if (wave_) wave_->close();
#endif
        try {
            top_->final();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s\n", error.what());
        }
    }

    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    // Serve one request; the answer is in `output`.
    Status serve(const std::vector<std::uint8_t>& request, Output& output) {
        output.clear();
        try {
            Input input(request);
            obey(input, output);
            return Status::kOk;
        } catch (const Refused& error) {
            return answer(Status::kRefused, error.what(), output);
        } catch (const BusError& error) {
            return answer(Status::kBusError, error.what(), output);
        } catch (const BusTimeout& error) {
            return answer(Status::kBusTimeout, error.what(), output);
        } catch (const Violation& error) {
            return broken(Status::kViolation, error.what(), output);
        } catch (const Stopped& error) {
            return broken(Status::kStopped, error.what(), output);
        }
    }

private:
    // With a seed, what has no initial value starts at random.
    static std::unique_ptr<machine::Top> power_up(VerilatedContext& context, int seed) {
        context.randReset(seed == 0 ? 0 : 2);
        context.randSeed(seed);
        return std::make_unique<machine::Top>(&context);
    }

    static Status answer(Status status, const std::string& text, Output& output) {
        output.clear();
        output.text(text);
        return status;
    }

    // What the circuit did wrong is the answer to every later command that needs its clock, until a reset.
    Status broken(Status status, const std::string& text, Output& output) {
        if (!broken_) {
            broken_status_ = status;
            broken_ = "cycle " + std::to_string(cycle_) + ": " + text;
        }
        return answer(broken_status_, *broken_, output);
    }

    void obey(Input& input, Output& output) {
        const auto command = static_cast<Command>(input.number<std::uint8_t>());
        switch (command) {
        case Command::kInfo:
            input.end();
            output.number<std::uint32_t>(kChannels);
            output.number<std::uint32_t>(kBeatBytes);
            output.number<std::uint64_t>(cycle_);
            output.number<std::uint8_t>(top_->irq);
            return;
        case Command::kWriteRegister: {
            const auto address = input.number<std::uint32_t>();
            const auto value = input.number<std::uint32_t>();
            const auto strobe = input.number<std::uint8_t>();
            const auto limit = input.number<std::uint32_t>();
            input.end();
            access(true, address, value, strobe, limit);
            return;
        }
        case Command::kReadRegister: {
            const auto address = input.number<std::uint32_t>();
            const auto limit = input.number<std::uint32_t>();
            input.end();
            output.number<std::uint32_t>(access(false, address, 0, 0, limit));
            return;
        }
        case Command::kWriteMemory: {
            Channel& channel = channel_of(input);
            const auto address = input.number<std::uint64_t>();
            const std::size_t size = input.left();
            channel.store.write(address, input.take(size), size);
            return;
        }
        case Command::kReadMemory: {
            Channel& channel = channel_of(input);
            const auto address = input.number<std::uint64_t>();
            const auto size = input.number<std::uint32_t>();
            input.end();
            if (size >= kLongest) throw Refused("so many bytes do not fit one answer");
            channel.store.read(address, output.room(size), size);
            return;
        }
        case Command::kRun: return run(input, output);
        case Command::kSetMemory: return set_memory(input);
        case Command::kFault: return add_fault(input);
        case Command::kStop: return stop(input);
        case Command::kBackPressure: return back_pressure(input);
        case Command::kReset: {
            const auto cycles = input.number<std::uint32_t>();
            input.end();
            return reset(cycles);
        }
        case Command::kStatistics: return statistics(input, output);
        case Command::kAllow: return allow(input);
        case Command::kHashOutputs: return hash_outputs(input, output);
        case Command::kOutside: {
            const auto clear = input.number<std::uint8_t>();
            input.end();
            output.number<std::uint64_t>(outside_.bytes);
            output.number<std::uint32_t>(outside_.channel);
            output.number<std::uint64_t>(outside_.address);
            output.number<std::uint64_t>(outside_.cycle);
            if (clear) outside_ = {};
            return;
        }
        }
        throw Refused("there is no such command");
    }

    // The hash of what all outputs of the top module showed, in every cycle since it was begun.
    void hash_outputs(Input& input, Output& output) {
        const auto begin = input.number<std::uint8_t>();
        input.end();
        if (begin) output_hash_ = machine::kHashBegin;
        output.number<std::uint64_t>(output_hash_.value_or(0));
    }

    Channel& channel_of(Input& input) {
        const auto number = input.number<std::uint32_t>();
        if (number >= kChannels) throw Refused("there is no channel " + std::to_string(number));
        return channels_[number];
    }

    // -- Time ---------------------------------------------------------------------------------------------------------

    void step() {
        if (broken_) throw Violation(*broken_);
        for (Channel& channel : channels_) channel.drive(cycle_);
        bus_.drive();
        evaluate(0);
        for (Channel& channel : channels_) channel.sample(cycle_);
        bus_.sample();
        if (output_hash_) output_hash_ = machine::hash_outputs(*top_, *output_hash_);
        evaluate(1);
        bus_.finish();
        ++cycle_;
    }

    void evaluate(std::uint8_t clock) {
        top_->clk = clock;
        top_->eval();
#if VM_TRACE
        if (wave_) wave_->dump(cycle_ * 1000 + clock * 500);  // in ps: the clock is 1 GHz
#endif
        if (!machine::stop_message.empty()) throw Stopped(std::exchange(machine::stop_message, {}));
    }

    // A reset of both sides: what is in flight is forgotten, planned faults and stops too; memory keeps its contents.
    void reset(std::uint32_t cycles) {
        if (cycles < 2) throw Refused("a reset takes at least 2 cycles");
        broken_.reset();
        hung_ = false;
        machine::stop_message.clear();
        bus_.reset();
        for (Channel& channel : channels_) {
            channel.reset();
            channel.faults.clear();
            channel.stop_from = kNever;
        }
        top_->rst = 1;
        for (std::uint32_t i = 0; i < cycles; ++i) {
            evaluate(0);
            if (i != 0) {
                for (Channel& channel : channels_) channel.check_reset();
            }
            evaluate(1);
            ++cycle_;
        }
        top_->rst = 0;
    }

    std::uint32_t access(bool is_write, std::uint32_t address, std::uint32_t data, std::uint8_t strobe,
                         std::uint32_t limit) {
        if (broken_) throw Violation(*broken_);
        if (hung_) throw BusTimeout("the register bus waits for an earlier access: only a reset ends that");
        bus_.start(is_write, address, data, strobe);
        for (std::uint32_t i = 0; i < limit; ++i) {
            step();
            if (bus_.busy()) continue;
            if (bus_.response() != 0) {
                throw BusError(std::string(1, static_cast<char>('0' + bus_.response())) + "the " +
                               (is_write ? "write" : "read") + " of register " + hex(address) + " was answered with " +
                               (bus_.response() == 2 ? "SLVERR" : bus_.response() == 3 ? "DECERR" : "EXOKAY"));
            }
            return bus_.data();
        }
        hung_ = true;
        throw BusTimeout("the " + std::string(is_write ? "write" : "read") + " of register " + hex(address) +
                         " was not answered within " + std::to_string(limit) + " cycles");
    }

    // Arguments: most cycles, whether the interrupt ends it, whether a register does (address, mask, value, cycles
    // between two looks), limit of a register access, and the most milliseconds of real time.
    void run(Input& input, Output& output) {
        const auto cycles = input.number<std::uint64_t>();
        const auto until_interrupt = input.number<std::uint8_t>();
        const auto until_register = input.number<std::uint8_t>();
        const auto address = input.number<std::uint32_t>();
        const auto mask = input.number<std::uint32_t>();
        const auto value = input.number<std::uint32_t>();
        const auto interval = input.number<std::uint32_t>();
        const auto limit = input.number<std::uint32_t>();
        const auto milliseconds = input.number<std::uint32_t>();
        input.end();
        enum Reason : std::uint8_t { kCycles = 0, kTime = 1, kInterrupt = 2, kRegister = 3 };
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
        const std::uint64_t end = cycle_ + cycles;
        std::uint64_t look = cycle_;
        std::uint64_t steps = 0;
        Reason reason = kCycles;
        for (;;) {
            if (until_interrupt && top_->irq) {
                reason = kInterrupt;
                break;
            }
            if (until_register && cycle_ >= look) {
                if ((access(false, address, 0, 0, limit) & mask) == value) {
                    reason = kRegister;
                    break;
                }
                look = cycle_ + interval;
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

    // -- Settings -----------------------------------------------------------------------------------------------------

    void set_memory(Input& input) {
        const auto model = input.number<std::uint8_t>();
        const auto latency = input.number<std::uint32_t>();
        const auto write_latency = input.number<std::uint32_t>();
        machine::Hbm2Timings timings;
        std::memcpy(&timings, input.take(sizeof timings), sizeof timings);
        input.end();
        if (model > 1) throw Refused("there is no memory model " + std::to_string(model));
        if (latency == 0 || write_latency == 0) throw Refused("a latency is at least 1 cycle");
        if (model == 1 && (timings.bank_groups == 0 || timings.banks_per_group == 0 || timings.row_sectors == 0 ||
                           timings.bank_groups * timings.banks_per_group > 64)) {
            throw Refused("a channel of HBM2 has 1 to 64 banks and rows of at least a sector");
        }
        for (const Channel& channel : channels_) {
            if (!channel.idle()) throw Refused("the memory model can change only while no request is in flight");
        }
        for (unsigned c = 0; c < kChannels; ++c) {
            channels_[c].write_latency = write_latency;
            if (model == 0) {
                channels_[c].set_model(std::make_unique<machine::Ideal>(latency));
            } else {
                const std::uint64_t phase = std::uint64_t{timings.refresh_stagger} * c;
                channels_[c].set_model(std::make_unique<machine::Hbm2>(timings, cycle_, phase));
            }
        }
    }

    void add_fault(Input& input) {
        Channel& channel = channel_of(input);
        const auto is_read = input.number<std::uint8_t>();
        const auto beat = input.number<std::uint64_t>();
        const auto response = input.number<std::uint8_t>();
        input.end();
        if (response != 2 && response != 3) throw Refused("an error response is SLVERR (2) or DECERR (3)");
        const std::uint64_t first = is_read ? channel.read_beats_ever() : channel.write_beats_ever();
        channel.faults.push_back({is_read != 0, first + beat, response});
    }

    void stop(Input& input) {
        Channel& channel = channel_of(input);
        channel.stop_from = input.number<std::uint64_t>();
        channel.stop_until = input.number<std::uint64_t>();
        channel.stop_reads = input.number<std::uint8_t>();
        channel.stop_writes = input.number<std::uint8_t>();
        channel.stop_accepts = input.number<std::uint8_t>();
        input.end();
    }

    void back_pressure(Input& input) {
        const auto seed = input.number<std::uint64_t>();
        const auto threshold = input.number<std::uint32_t>();
        const auto registers = input.number<std::uint8_t>();
        input.end();
        for (unsigned c = 0; c < kChannels; ++c) channels_[c].dice.set(seed * 64 + c, threshold);
        bus_.dice.set(seed * 64 + 63, registers ? threshold : 0);
    }

    void allow(Input& input) {
        const auto check = input.number<std::uint8_t>();
        std::array<std::vector<machine::Region>, kChannels> regions;
        while (input.left() != 0) {
            const auto channel = input.number<std::uint32_t>();
            const auto start = input.number<std::uint64_t>();
            const auto size = input.number<std::uint64_t>();
            if (channel >= kChannels) throw Refused("there is no channel " + std::to_string(channel));
            if (size != 0) regions[channel].push_back({start, start + size});
        }
        for (unsigned c = 0; c < kChannels; ++c) {
            std::sort(regions[c].begin(), regions[c].end(),
                      [](const machine::Region& a, const machine::Region& b) { return a.start < b.start; });
            std::vector<machine::Region>& merged = channels_[c].regions;
            merged.clear();
            for (const machine::Region& region : regions[c]) {
                if (!merged.empty() && region.start <= merged.back().end) {
                    merged.back().end = std::max(merged.back().end, region.end);
                } else {
                    merged.push_back(region);
                }
            }
            channels_[c].regions_checked = check;
        }
        outside_ = {};
    }

    void statistics(Input& input, Output& output) {
        const auto clear = input.number<std::uint8_t>();
        input.end();
        for (Channel& channel : channels_) {
            const machine::ChannelStatistics& statistics = channel.statistics;
            output.number(statistics.read_requests);
            output.number(statistics.read_beats);
            output.number(statistics.write_requests);
            output.number(statistics.write_beats);
            output.number(channel.model().busy_cycles);
            output.number(channel.model().activations);
            output.number(channel.model().conflicts);
            output.number(channel.model().refreshes);
            output.number(statistics.outside_bytes);
            if (clear) channel.clear_statistics();
        }
    }

    VerilatedContext context_;
    std::unique_ptr<machine::Top> top_;
    machine::Outside outside_;
    std::vector<Channel> channels_;
    RegisterBus bus_;
    std::uint64_t cycle_ = 0;
    std::optional<std::uint64_t> output_hash_;
    bool hung_ = false;
    std::optional<std::string> broken_;
    Status broken_status_ = Status::kViolation;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> wave_;
#endif
};

}  // namespace

// Arguments: the waveform's file or nothing, and a seed or 0.
int main(int count, char** arguments) {
    return machine::answer_requests(
        [&] { return Machine(count > 1 ? arguments[1] : "", count > 2 ? std::atoi(arguments[2]) : 0); });
}

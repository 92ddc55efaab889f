// The memory of one channel behind its AXI4 pins: contents, timing models, faults, and a checker of the master's protocol.
//
// Cycle t is the time from one rising clock edge to the next. `drive(t)` sets what the memory says in cycle t from what
// was known before it, so no input of the circuit depends on an output within a cycle; `sample(t)` sees what the circuit
// says in that cycle, with both sides settled.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "machine_ports.h"
#include "messages.h"

namespace machine {

constexpr unsigned kSectorBytes = 32;
constexpr std::uint64_t kNever = ~std::uint64_t{0};

// The circuit broke a rule of AXI.
struct Violation : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Decides handshakes at random; never says no while the probability is 0.
class Dice {
public:
    void set(std::uint64_t seed, std::uint32_t threshold) {
        state_ = seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
        if (state_ == 0) state_ = 1;
        threshold_ = threshold;
        for (unsigned i = 0; i < 8; ++i) next();
    }

    // Whether a handshake may go on this cycle.
    bool go() { return threshold_ == 0 || next() >= threshold_; }

private:
    std::uint32_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<std::uint32_t>((state_ * 0x2545f4914f6cdd1dull) >> 32);
    }

    std::uint64_t state_ = 1;
    std::uint32_t threshold_ = 0;  // of 2^32: the probability that a handshake waits
};

// Bytes by address. A page exists once it is written; what never was reads as zero.
class Store {
public:
    void read(std::uint64_t address, std::uint8_t* data, std::size_t size) {
        while (size != 0) {
            const std::size_t offset = address % kPage;
            const std::size_t part = std::min(size, kPage - offset);
            const std::uint8_t* page = find(address / kPage, false);
            if (page == nullptr) {
                std::memset(data, 0, part);
            } else {
                std::memcpy(data, page + offset, part);
            }
            address += part;
            data += part;
            size -= part;
        }
    }

    void write(std::uint64_t address, const std::uint8_t* data, std::size_t size) {
        while (size != 0) {
            const std::size_t offset = address % kPage;
            const std::size_t part = std::min(size, kPage - offset);
            std::memcpy(find(address / kPage, true) + offset, data, part);
            address += part;
            data += part;
            size -= part;
        }
    }

private:
    static constexpr std::size_t kPage = 1 << 16;

    std::uint8_t* find(std::uint64_t number, bool make) {
        if (number == last_number_) return last_;
        auto place = pages_.find(number);
        if (place == pages_.end()) {
            if (!make) return nullptr;
            place = pages_.emplace(number, std::make_unique<std::uint8_t[]>(kPage)).first;
        }
        last_number_ = number;
        last_ = place->second.get();
        return last_;
    }

    std::unordered_map<std::uint64_t, std::unique_ptr<std::uint8_t[]>> pages_;
    std::uint64_t last_number_ = kNever;
    std::uint8_t* last_ = nullptr;
};

// -- Timing models ----------------------------------------------------------------------------------------------------

// When the beats of a channel may pass. Reads are answered in order.
class Model {
public:
    virtual ~Model() = default;

    // Everything that happens inside the memory in cycle `now`, before its beats.
    virtual void tick(std::uint64_t now) = 0;
    // A read burst was taken in cycle `now`.
    virtual void read(std::uint64_t now, std::uint64_t address, unsigned beats) = 0;
    // Whether the next beat of the oldest read may be offered in cycle `now`.
    virtual bool read_ready(std::uint64_t now) const = 0;
    // It was offered, and must not be counted again; `accepted` when the circuit took it.
    virtual void offered(std::uint64_t now) = 0;
    virtual void accepted() {}
    // Whether a beat to write may be taken in a cycle, in which a read beat is offered for the first time or not.
    virtual bool write_ready(bool offers_read) const = 0;
    // Whether a beat that waits to be written shall go before a read beat that could be offered now.
    virtual bool write_first() const = 0;
    virtual void wrote(std::uint64_t now, std::uint64_t address) = 0;
    virtual void reset() = 0;

    std::uint64_t busy_cycles = 0;
    std::uint64_t activations = 0;
    std::uint64_t conflicts = 0;
    std::uint64_t refreshes = 0;
};

// A read taken in cycle t is offered from cycle t + latency on, then a beat every cycle. A beat takes the channel's data
// wires once, for one cycle: a read beat when it is first offered, a beat to write when it is taken. While both wait, they
// take turns.
class Ideal final : public Model {
public:
    explicit Ideal(std::uint64_t latency) : latency_(latency) {}

    void tick(std::uint64_t) override {}

    void read(std::uint64_t now, std::uint64_t, unsigned beats) override { reads_.push_back({now + latency_, beats}); }

    bool read_ready(std::uint64_t now) const override { return !reads_.empty() && reads_.front().first <= now; }

    void offered(std::uint64_t) override {
        if (--reads_.front().second == 0) reads_.pop_front();
        write_went_ = false;
        ++busy_cycles;
    }

    bool write_ready(bool offers_read) const override { return !offers_read; }

    bool write_first() const override { return !write_went_; }

    void wrote(std::uint64_t, std::uint64_t) override {
        write_went_ = true;
        ++busy_cycles;
    }

    void reset() override {
        reads_.clear();
        write_went_ = false;
    }

private:
    std::uint64_t latency_;
    std::deque<std::pair<std::uint64_t, unsigned>> reads_;  // first cycle, beats left
    bool write_went_ = false;
};

// A channel of HBM2 behind a controller (the timings and their sources: sim/machine/machine.py, `Hbm2Timings`).
//
// A local sector s lies in bank group s mod groups, so that consecutive sectors do not wait for tCCD_L. Per cycle the
// controller issues at most one row command and one column command, as HBM has a bus for each. Column commands go in the
// order of the requests; the row commands of the first `window` requests are issued ahead. Rows stay open until another
// row of the bank or a refresh is needed. Writes are posted to a buffer, which is drained when it is nearly full or when
// no read has come for a while.
class Hbm2 final : public Model {
public:
    Hbm2(const Hbm2Timings& timings, std::uint64_t now, std::uint64_t phase)
        : t_(timings), banks_(t_.bank_groups * t_.banks_per_group), group_column_(t_.bank_groups),
          group_activate_(t_.bank_groups), group_turn_(t_.bank_groups) {
        next_refresh_ = t_.trefi == 0 ? kNever : now + t_.trefi + phase;
    }

    void tick(std::uint64_t now) override {
        if (now >= next_refresh_ && !refresh(now)) return;
        if (now < refreshed_) return;
        choose_direction(now);
        auto& queue = writing_ ? writes_ : reads_;
        if (!queue.empty()) column_command(now, queue);
        row_command(now, queue);
    }

    void read(std::uint64_t now, std::uint64_t address, unsigned beats) override {
        while (beats != 0) {
            const unsigned in_sector = static_cast<unsigned>((kSectorBytes - address % kSectorBytes) / kBeatBytes);
            const unsigned part = std::min(beats, in_sector);
            reads_.push_back(place(now, address, part));
            address += std::uint64_t{part} * kBeatBytes;
            beats -= part;
        }
    }

    bool read_ready(std::uint64_t now) const override { return !returns_.empty() && returns_.front().first <= now; }

    void offered(std::uint64_t) override {
        if (--returns_.front().second == 0) {
            returns_.pop_front();
        } else {
            ++returns_.front().first;
        }
    }

    void accepted() override { --return_beats_; }

    bool write_ready(bool) const override { return writes_.size() < t_.write_buffer; }

    bool write_first() const override { return false; }

    void wrote(std::uint64_t now, std::uint64_t address) override {
        // Beats of one sector make one column access, if it has not been issued meanwhile.
        if (!writes_.empty() && last_written_ == address / kSectorBytes &&
            writes_.back().beats < kSectorBytes / kBeatBytes) {
            ++writes_.back().beats;
            writes_.back().arrived = now + t_.controller_in;
        } else {
            writes_.push_back(place(now, address, 1));
        }
        last_written_ = address / kSectorBytes;
    }

    void reset() override {
        reads_.clear();
        writes_.clear();
        returns_.clear();
        return_beats_ = 0;
    }

private:
    struct Request {
        std::uint64_t arrived;
        std::uint64_t row;
        unsigned bank;
        unsigned group;
        unsigned beats;
    };

    struct Bank {
        bool open = false;
        std::uint64_t row = 0;
        std::uint64_t activate = 0;   // first cycles in which each command may come
        std::uint64_t read = 0;
        std::uint64_t write = 0;
        std::uint64_t precharge = 0;
    };

    Request place(std::uint64_t now, std::uint64_t address, unsigned beats) const {
        std::uint64_t rest = address / kSectorBytes;
        const unsigned group = static_cast<unsigned>(rest % t_.bank_groups);
        rest /= t_.bank_groups;
        rest /= t_.row_sectors;
        const unsigned bank = group * t_.banks_per_group + static_cast<unsigned>(rest % t_.banks_per_group);
        return {now + t_.controller_in, rest / t_.banks_per_group, bank, group, beats};
    }

    // Whether other commands may be issued in this cycle.
    bool refresh(std::uint64_t now) {
        bool any_open = false;
        std::uint64_t closable = 0;
        std::uint64_t idle = 0;
        for (const Bank& bank : banks_) {
            any_open |= bank.open;
            if (bank.open) closable = std::max(closable, bank.precharge);
            idle = std::max(idle, bank.activate);
        }
        if (any_open) {
            if (now >= closable) {
                for (Bank& bank : banks_) {
                    if (bank.open) bank.activate = std::max(bank.activate, now + t_.trp);
                    bank.open = false;
                }
            }
            return false;
        }
        if (now < idle) return false;
        refreshed_ = now + t_.trfc;
        next_refresh_ += t_.trefi;
        ++refreshes;
        return false;
    }

    void choose_direction(std::uint64_t now) {
        const bool read_waits = !reads_.empty() && reads_.front().arrived <= now;
        const bool write_waits = !writes_.empty() && writes_.front().arrived <= now;
        if (read_waits) last_read_ = now;
        if (writing_) {
            if (writes_.empty() || (read_waits && writes_.size() <= t_.write_low)) writing_ = false;
        } else if (writes_.size() >= t_.write_high || (write_waits && now >= last_read_ + t_.write_idle)) {
            writing_ = true;
        }
    }

    void column_command(std::uint64_t now, std::deque<Request>& queue) {
        const Request request = queue.front();
        Bank& bank = banks_[request.bank];
        if (request.arrived > now || !bank.open || bank.row != request.row) return;
        if (now < column_ || now < group_column_[request.group]) return;
        if (writing_) {
            // A cycle without a driver lies between data of both directions.
            const std::uint64_t wires = wires_free_ + (wires_wrote_ ? 0 : 1);
            if (now < bank.write || now + t_.cwl < wires) return;
            const std::uint64_t end = now + t_.cwl + request.beats;
            bank.precharge = std::max(bank.precharge, end + t_.twr);
            turn_ = end + t_.twtr_s;
            group_turn_[request.group] = end + t_.twtr_l;
            wires_free_ = end;
        } else {
            const std::uint64_t wires = wires_free_ + (wires_wrote_ ? 1 : 0);
            if (now < bank.read || now + t_.cl < wires) return;
            if (now < turn_ || now < group_turn_[request.group]) return;
            if (return_beats_ + request.beats > t_.return_buffer) return;
            bank.precharge = std::max(bank.precharge, now + t_.trtp);
            wires_free_ = now + t_.cl + request.beats;
            return_beats_ += request.beats;
            returns_.push_back({now + t_.cl + t_.controller_out, request.beats});
        }
        wires_wrote_ = writing_;
        column_ = now + std::max<std::uint64_t>(t_.tccd_s, request.beats);
        group_column_[request.group] = now + std::max<std::uint64_t>(t_.tccd_l, request.beats);
        busy_cycles += request.beats;
        queue.pop_front();
    }

    void row_command(std::uint64_t now, const std::deque<Request>& queue) {
        std::uint64_t claimed = 0;  // banks that an older request still needs as they are
        const std::size_t count = std::min<std::size_t>(queue.size(), t_.window);
        for (std::size_t i = 0; i < count; ++i) {
            const Request& request = queue[i];
            if (request.arrived > now) return;
            if (claimed >> request.bank & 1) continue;
            claimed |= std::uint64_t{1} << request.bank;
            Bank& bank = banks_[request.bank];
            if (bank.open && bank.row == request.row) continue;
            if (bank.open) {
                if (now < bank.precharge) continue;
                bank.open = false;
                bank.activate = std::max(bank.activate, now + t_.trp);
                ++conflicts;
                return;
            }
            if (now < bank.activate || now < activate_ || now < group_activate_[request.group]) continue;
            if (now < fourth_activate_[next_activate_]) continue;
            bank.open = true;
            bank.row = request.row;
            bank.read = now + t_.trcd_read;
            bank.write = now + t_.trcd_write;
            bank.precharge = now + t_.tras;
            bank.activate = now + t_.tras + t_.trp;
            activate_ = now + t_.trrd_s;
            group_activate_[request.group] = now + t_.trrd_l;
            fourth_activate_[next_activate_] = now + t_.tfaw;
            next_activate_ = (next_activate_ + 1) % fourth_activate_.size();
            ++activations;
            return;
        }
    }

    Hbm2Timings t_;
    std::vector<Bank> banks_;
    std::deque<Request> reads_;
    std::deque<Request> writes_;
    std::deque<std::pair<std::uint64_t, unsigned>> returns_;  // cycle of the next beat, beats left
    std::uint64_t return_beats_ = 0;                          // read, and not yet taken by the circuit
    std::uint64_t last_written_ = kNever;                     // sector
    bool writing_ = false;
    std::uint64_t last_read_ = 0;
    bool wires_wrote_ = false;
    std::uint64_t wires_free_ = 0;
    std::uint64_t column_ = 0;  // first cycles of the next column command, activation, read after a write
    std::uint64_t activate_ = 0;
    std::uint64_t turn_ = 0;
    std::vector<std::uint64_t> group_column_;
    std::vector<std::uint64_t> group_activate_;
    std::vector<std::uint64_t> group_turn_;
    std::array<std::uint64_t, 4> fourth_activate_{};
    std::size_t next_activate_ = 0;
    std::uint64_t next_refresh_ = kNever;
    std::uint64_t refreshed_ = 0;
};

// -- A channel --------------------------------------------------------------------------------------------------------

struct ChannelStatistics {
    std::uint64_t read_requests = 0;
    std::uint64_t read_beats = 0;
    std::uint64_t write_requests = 0;
    std::uint64_t write_beats = 0;
    std::uint64_t outside_bytes = 0;
};

struct Region {
    std::uint64_t start;
    std::uint64_t end;
};

struct Outside {
    std::uint64_t bytes = 0;
    unsigned channel = 0;
    std::uint64_t address = 0;  // of the first
    std::uint64_t cycle = 0;
};

struct Fault {
    bool is_read;
    std::uint64_t beat;  // number of the channel's beat since power-up
    std::uint8_t response;
};

class Channel {
public:
    Channel(unsigned number, const ChannelPins& pins, Outside& outside)
        : number_(number), pins_(pins), outside_(outside), model_(std::make_unique<Ideal>(40)) {}

    Store store;
    ChannelStatistics statistics;
    Dice dice;
    std::deque<Fault> faults;
    // What the channel does in [from, until) of a stop, in each direction.
    std::uint64_t stop_from = kNever;
    std::uint64_t stop_until = 0;
    bool stop_reads = true;
    bool stop_writes = true;
    bool stop_accepts = false;
    std::uint64_t write_latency = 8;
    bool regions_checked = false;
    std::vector<Region> regions;  // ascending, apart

    // Whether no request is in flight.
    bool idle() const {
        return reads_.empty() && writes_.empty() && early_.empty() && answers_.empty() && !offers_ && !answering_;
    }

    const Model& model() const { return *model_; }

    void clear_statistics() {
        statistics = {};
        model_->busy_cycles = model_->activations = model_->conflicts = model_->refreshes = 0;
    }

    void set_model(std::unique_ptr<Model> model) { model_ = std::move(model); }

    std::uint64_t read_beats_ever() const { return read_beats_; }
    std::uint64_t write_beats_ever() const { return write_beats_; }

    // Forget all that is in flight, as a power cycle of both sides would; the contents stay.
    void reset() {
        model_->reset();
        reads_.clear();
        writes_.clear();
        early_.clear();
        answers_.clear();
        offers_ = answering_ = write_waits_ = false;
        *pins_.arready = *pins_.awready = *pins_.wready = 0;
        *pins_.rvalid = *pins_.bvalid = 0;
        held_read_.held = held_write_.held = data_held_ = false;
    }

    void drive(std::uint64_t now) {
        model_->tick(now);
        const bool stopped = now >= stop_from && now < stop_until;
        const bool no_reads = stopped && stop_reads;
        const bool no_writes = stopped && stop_writes;
        *pins_.arready = !(no_reads && !stop_accepts) && dice.go();
        *pins_.awready = !(no_writes && !stop_accepts) && dice.go();
        const bool may_write = !(no_writes && !stop_accepts) && dice.go();

        bool offers_now = false;
        if (!offers_) {
            offers_now = !no_reads && dice.go() && model_->read_ready(now) &&
                         !(write_waits_ && may_write && model_->write_first());
            if (offers_now) offer(now);
        }
        *pins_.rvalid = offers_;
        *pins_.wready = may_write && model_->write_ready(offers_now);

        if (!answering_ && !no_writes && !answers_.empty() && answers_.front().ready <= now && dice.go()) answer();
        *pins_.bvalid = answering_;
    }

    void sample(std::uint64_t now) {
        check_address(held_read_, "AR", *pins_.arvalid, *pins_.arready,
                      {*pins_.arid, *pins_.araddr, *pins_.arlen, *pins_.arsize, *pins_.arburst, *pins_.arcache,
                       *pins_.arprot});
        check_address(held_write_, "AW", *pins_.awvalid, *pins_.awready,
                      {*pins_.awid, *pins_.awaddr, *pins_.awlen, *pins_.awsize, *pins_.awburst, *pins_.awcache,
                       *pins_.awprot});
        check_data();

        if (offers_ && *pins_.rready) {
            offers_ = false;
            model_->accepted();
            ++statistics.read_beats;
            ++read_beats_;
        }
        if (answering_ && *pins_.bready) answering_ = false;
        if (*pins_.arvalid && *pins_.arready) {
            const unsigned beats = *pins_.arlen + 1u;
            reads_.push_back({*pins_.araddr, beats, *pins_.arid});
            model_->read(now, *pins_.araddr, beats);
            ++statistics.read_requests;
        }
        if (*pins_.awvalid && *pins_.awready) {
            Write write;
            write.address = *pins_.awaddr;
            write.beats = *pins_.awlen + 1u;
            write.id = *pins_.awid;
            writes_.push_back(std::move(write));
            ++statistics.write_requests;
            // Beats may come before their address.
            while (!early_.empty() && next_write() != nullptr) {
                take(now, *next_write(), early_.front());
                early_.pop_front();
            }
        }
        write_waits_ = *pins_.wvalid && !*pins_.wready;
        if (*pins_.wvalid && *pins_.wready) {
            Beat beat;
            std::memcpy(beat.data.data(), pins_.wdata, kBeatBytes);
            std::memcpy(&beat.strobe, pins_.wstrb, kStrobeBytes);
            beat.last = *pins_.wlast;
            ++statistics.write_beats;
            if (Write* write = next_write()) {
                take(now, *write, beat);
            } else {
                early_.push_back(beat);
            }
        }
    }

    // In reset: the circuit must not ask for anything from the second cycle on.
    void check_reset() const {
        if (*pins_.arvalid) fail("AR", "ARVALID is high in reset");
        if (*pins_.awvalid) fail("AW", "AWVALID is high in reset");
        if (*pins_.wvalid) fail("W", "WVALID is high in reset");
    }

private:
    struct Address {
        std::uint8_t id;
        std::uint64_t address;
        std::uint8_t length;
        std::uint8_t size;
        std::uint8_t burst;
        std::uint8_t cache;
        std::uint8_t prot;

        bool operator==(const Address& o) const {
            return id == o.id && address == o.address && length == o.length && size == o.size && burst == o.burst &&
                   cache == o.cache && prot == o.prot;
        }
    };

    struct Held {
        bool held = false;
        Address payload{};
    };

    struct Beat {
        std::array<std::uint8_t, kBeatBytes> data{};
        std::uint32_t strobe = 0;
        bool last = false;
    };

    struct Read {
        std::uint64_t address;
        unsigned beats;  // left
        std::uint8_t id;
    };

    struct Write {
        std::uint64_t address = 0;
        unsigned beats = 0;
        std::uint8_t id = 0;
        std::uint8_t response = 0;
        std::vector<Beat> data;
    };

    struct Answer {
        std::uint64_t ready;
        Write write;
    };

    [[noreturn]] void fail(const char* what, const std::string& text) const {
        throw Violation("channel " + std::to_string(number_) + " " + what + ": " + text);
    }

    Write* next_write() { return writes_.empty() ? nullptr : &writes_.front(); }

    // The fault planned for a beat, which is then done with; 0 if there is none.
    std::uint8_t fault(bool is_read, std::uint64_t beat) {
        for (auto place = faults.begin(); place != faults.end(); ++place) {
            if (place->is_read == is_read && place->beat == beat) {
                const std::uint8_t response = place->response;
                faults.erase(place);
                return response;
            }
        }
        return 0;
    }

    void offer(std::uint64_t now) {
        model_->offered(now);
        Read& read = reads_.front();
        auto* data = static_cast<std::uint8_t*>(pins_.rdata);
        store.read(read.address, data, kBeatBytes);
        const std::uint8_t response = faults.empty() ? 0 : fault(true, read_beats_);
        if (response != 0) {
            for (unsigned i = 0; i < kBeatBytes; ++i) data[i] ^= 0xff;  // whoever uses it must get something wrong
        }
        *pins_.rresp = response;
        *pins_.rid = read.id;
        *pins_.rlast = read.beats == 1;
        read.address += kBeatBytes;
        if (--read.beats == 0) reads_.pop_front();
        offers_ = true;
    }

    // A write reaches the contents when its answer is given: a read that does not wait for that may find the old bytes.
    void answer() {
        const Write& write = answers_.front().write;
        *pins_.bid = write.id;
        *pins_.bresp = write.response;
        if (write.response == 0) {
            std::uint64_t address = write.address;
            for (const Beat& beat : write.data) {
                if (beat.strobe == kFullStrobe) {
                    store.write(address, beat.data.data(), kBeatBytes);
                } else {
                    for (unsigned i = 0; i < kBeatBytes; ++i) {
                        if (beat.strobe >> i & 1) store.write(address + i, &beat.data[i], 1);
                    }
                }
                address += kBeatBytes;
            }
        }
        answers_.pop_front();
        answering_ = true;
    }

    void take(std::uint64_t now, Write& write, const Beat& beat) {
        const std::uint64_t address = write.address + write.data.size() * kBeatBytes;
        const bool last = write.data.size() + 1 == write.beats;
        if (beat.last != last) {
            fail("W", std::string("WLAST is ") + (beat.last ? "high" : "low") + " on beat " +
                          std::to_string(write.data.size() + 1) + " of " + std::to_string(write.beats) +
                          " of the burst at " + hex(write.address));
        }
        if (regions_checked) check_region(now, address, beat.strobe);
        const std::uint8_t response = faults.empty() ? 0 : fault(false, write_beats_);
        write.response = std::max(write.response, response);
        ++write_beats_;
        write.data.push_back(beat);
        model_->wrote(now, address);
        if (last) {
            answers_.push_back({now + write_latency, std::move(write)});
            writes_.pop_front();
        }
    }

    void check_region(std::uint64_t now, std::uint64_t address, std::uint32_t strobe) {
        for (unsigned i = 0; i < kBeatBytes; ++i) {
            if (!(strobe >> i & 1)) continue;
            const std::uint64_t byte = address + i;
            auto after = std::upper_bound(regions.begin(), regions.end(), byte,
                                          [](std::uint64_t value, const Region& region) { return value < region.start; });
            if (after != regions.begin() && byte < std::prev(after)->end) {
                // The rest of the beat up to the end of this region is allowed, too.
                const std::uint64_t inside = std::prev(after)->end - byte;
                if (inside >= kBeatBytes - i) return;
                i += static_cast<unsigned>(inside) - 1;
                continue;
            }
            if (outside_.bytes == 0) outside_ = {0, number_, byte, now};
            ++outside_.bytes;
            ++statistics.outside_bytes;
        }
    }

    void check_address(Held& last, const char* what, bool valid, bool ready, const Address& payload) {
        if (last.held) {
            if (!valid) fail(what, std::string(what) + "VALID fell before " + what + "READY");
            if (!(payload == last.payload)) {
                fail(what, std::string("the request at ") + hex(last.payload.address) + " changed before " + what +
                               "READY, now at " + hex(payload.address));
            }
        } else if (valid) {
            check_burst(what, payload);
        }
        last.held = valid && !ready;
        last.payload = payload;
    }

    void check_burst(const char* what, const Address& payload) const {
        const std::string where = "the burst at " + hex(payload.address);
        if ((1u << payload.size) != kBeatBytes) {
            fail(what, where + " has beats of " + std::to_string(1u << payload.size) + " bytes, the channel has " +
                           std::to_string(kBeatBytes));
        }
        if (payload.burst != 1) fail(what, where + " must be INCR (1), not " + std::to_string(payload.burst));
        if (payload.address % kBeatBytes != 0) fail(what, where + " is not aligned to its beats");
        const std::uint64_t last = payload.address + (payload.length + 1ull) * kBeatBytes - 1;
        if (payload.address >> 12 != last >> 12) {
            fail(what, where + " of " + std::to_string(payload.length + 1) + " beats crosses a 4 KB boundary");
        }
    }

    void check_data() {
        const bool valid = *pins_.wvalid;
        if (data_held_) {
            if (!valid) fail("W", "WVALID fell before WREADY");
            std::uint32_t strobe = 0;
            std::memcpy(&strobe, pins_.wstrb, kStrobeBytes);
            if (std::memcmp(held_data_.data.data(), pins_.wdata, kBeatBytes) != 0 || strobe != held_data_.strobe ||
                *pins_.wlast != held_data_.last) {
                fail("W", "WDATA, WSTRB or WLAST changed before WREADY");
            }
        }
        const bool held = valid && !*pins_.wready;
        if (held && !data_held_) {
            std::memcpy(held_data_.data.data(), pins_.wdata, kBeatBytes);
            std::memcpy(&held_data_.strobe, pins_.wstrb, kStrobeBytes);
            held_data_.last = *pins_.wlast;
        }
        data_held_ = held;
    }

    static constexpr unsigned kStrobeBytes = (kBeatBytes + 7) / 8;
    static constexpr std::uint32_t kFullStrobe =
        kBeatBytes == 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << kBeatBytes % 32) - 1;

    unsigned number_;
    ChannelPins pins_;
    Outside& outside_;
    std::unique_ptr<Model> model_;
    std::deque<Read> reads_;    // whose beats have not all been offered
    std::deque<Write> writes_;  // whose beats have not all been taken
    std::deque<Beat> early_;    // beats whose address has not come
    std::deque<Answer> answers_;
    bool offers_ = false;       // RVALID
    bool answering_ = false;    // BVALID
    bool write_waits_ = false;  // a beat was refused in the cycle before, so WVALID is high in this one
    std::uint64_t read_beats_ = 0;
    std::uint64_t write_beats_ = 0;
    Held held_read_;
    Held held_write_;
    bool data_held_ = false;
    Beat held_data_;
};

}  // namespace machine

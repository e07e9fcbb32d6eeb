# lmcache-appliance: one plain GNU Makefile. `make help` lists the targets.
#
# A module is a folder; its sources become one archive. MODULES is in layer order: a module may include only modules to
# its left, and its unit tests link only those archives, so a wrong dependency fails at link time.

BUILD   ?= build
CC      ?= gcc
PYTHON  ?= /usr/bin/python3
SHELL   := /bin/bash
.DELETE_ON_ERROR:

MODULES := daemon/base daemon/conf numa transport/wire transport/pickle transport/kv transport/shm transport/zmq \
           daemon/store daemon/http daemon/core tools

PKGS      := libzmq hwloc libmicrohttpd jansson libcrypto
TEST_PKGS := cmocka
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) $(TEST_PKGS) 2>/dev/null)
PKG_LIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null)
TEST_LIBS  = $(shell pkg-config --libs $(TEST_PKGS) 2>/dev/null)

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wundef -Wvla -Werror
OPT     ?= -O2 -g
SAN     ?=
CFLAGS  ?= $(OPT)
ALL_CFLAGS = -std=gnu17 $(CFLAGS) $(SAN) $(WARN) -fno-strict-aliasing -fstack-protector-strong -D_GNU_SOURCE -I. -I$(BUILD) \
             -isystem $(BLAKE3_DIR) $(PKG_CFLAGS) -pthread -MMD -MP
ALL_LDFLAGS = $(LDFLAGS) $(SAN) -pthread
LIBS     = $(PKG_LIBS) -lm -lrt

# Parsers of foreign bytes are also held to -Wconversion.
CONVERSION_MODULES := transport/wire transport/pickle

# ---- BLAKE3: the official C sources, from Debian's librust-blake3-dev (see docs/decisions) ------------------------
BLAKE3_DIR := build/third/blake3
BLAKE3_SRC := blake3.c blake3_dispatch.c blake3_portable.c
ifeq ($(shell uname -m),x86_64)
BLAKE3_SRC += blake3_sse2_x86-64_unix.S blake3_sse41_x86-64_unix.S blake3_avx2_x86-64_unix.S blake3_avx512_x86-64_unix.S
else ifeq ($(shell uname -m),aarch64)
BLAKE3_SRC += blake3_neon.c
endif
BLAKE3_LIB := $(BUILD)/third/libblake3.a
BLAKE3_OBJ := $(addprefix $(BUILD)/third/,$(addsuffix .o,$(BLAKE3_SRC)))

$(BLAKE3_DIR)/blake3.h:
	@mkdir -p build/third
	cd build/third && apt-get download -qq librust-blake3-dev 2>/dev/null && dpkg -x librust-blake3-dev_*.deb unpacked \
	  && rm -rf blake3 && mv unpacked/usr/share/cargo/registry/blake3-*/c blake3 && rm -rf unpacked librust-blake3-dev_*.deb
	@touch $@

$(BUILD)/third/%.o: $(BLAKE3_DIR)/blake3.h
	@mkdir -p $(@D)
	$(CC) -O3 -g -c $(BLAKE3_DIR)/$* -o $@

$(BLAKE3_LIB): $(BLAKE3_OBJ)
	$(AR) rcs $@ $^

# ---- modules -----------------------------------------------------------------------------------------------------
lib_of   = $(BUILD)/lib/$(subst /,_,$(1)).a
objs_of  = $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(MAINS),$(wildcard $(1)/*.c)))
# Archives a module may link: itself and everything to its left, most dependent first.
upto     = $(if $(filter $(1),$(firstword $(2))),$(1),$(firstword $(2)) $(call upto,$(1),$(wordlist 2,99,$(2))))
reverse  = $(if $(1),$(call reverse,$(wordlist 2,99,$(1))) $(firstword $(1)))
libs_for = $(foreach m,$(call reverse,$(call upto,$(1),$(MODULES))),$(call lib_of,$(m))) $(BLAKE3_LIB)

MAINS := tools/main.c

$(BUILD)/%.o: %.c | $(BLAKE3_DIR)/blake3.h
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(if $(filter $(CONVERSION_MODULES),$(patsubst %/,%,$(dir $<))),-Wconversion) -c $< -o $@

define module_rules
$(call lib_of,$(1)): $(call objs_of,$(1))
	@mkdir -p $$(@D)
	rm -f $$@
	$$(AR) rcs $$@ $$^
endef
$(foreach m,$(MODULES),$(eval $(call module_rules,$(m))))

BIN := $(BUILD)/lmcache-appliance
$(BIN): $(BUILD)/tools/main.o $(call libs_for,tools)
	$(CC) $(ALL_LDFLAGS) -o $@ $< $(wordlist 2,99,$^) $(LIBS)

# ---- unit tests: tests/unit/<module>/<file>_test.c, one binary each, TAP output -------------------------------------
UNIT_SRC  := $(shell find tests/unit -name '*_test.c' | sort)
UNIT_BINS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(UNIT_SRC))
TEST_LIB_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/lib/*.c))

define unit_rules
$(BUILD)/tests/unit/$(1)/%_test: $(BUILD)/tests/unit/$(1)/%_test.o $(TEST_LIB_OBJ) $(call libs_for,$(1))
	$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ $$(LIBS) $$(TEST_LIBS)
endef
$(foreach m,$(MODULES),$(eval $(call unit_rules,$(m))))

# make unit M=transport/wire : build and run the unit tests of one module
.PHONY: unit
unit: $(if $(M),$(filter $(BUILD)/tests/unit/$(M)/%,$(UNIT_BINS)),$(UNIT_BINS))
	@set -e; for t in $^; do echo "== $$t"; $$t; done

# ---- bench programs: tools/bench/<name>_bench.c ---------------------------------------------------------------------
BENCH_BINS := $(patsubst tools/bench/%.c,$(BUILD)/bench/%,$(wildcard tools/bench/*_bench.c))
$(BUILD)/bench/%: $(BUILD)/tools/bench/%.o $(call libs_for,tools)
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) $(BENCH_LIBS_$*)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

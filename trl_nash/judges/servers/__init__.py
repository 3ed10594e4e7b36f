# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges behind a network: where a server is, at what pace it is asked, and what to do when it does not answer."""

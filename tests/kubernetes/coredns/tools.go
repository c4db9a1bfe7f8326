//go:build tools

// Package coredns names what is built, so that go.mod and go.sum hold all that it needs.
package coredns

import _ "github.com/coredns/coredns"

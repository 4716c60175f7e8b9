//go:build !unix

package db

// turn is nothing here: writers ask for SQLite's lock whenever they like.
type turn struct{}

func openTurn(string) *turn { return &turn{} }

func (*turn) take() (release func()) { return func() {} }

func (*turn) close() {}

//go:build !linux

package db

import "os"

// ballastFor returns 0: how much room there is, and how to reserve some of it, is not known here.
func ballastFor(string) (int64, error) { return 0, nil }

func reserve(*os.File, int64) error { return nil }

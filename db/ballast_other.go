//go:build !linux

package db

import (
	"math"
	"os"
)

// ballastFor returns 0: how much room there is, and how to reserve some of it, is not known here.
func ballastFor(string) (int64, error) { return 0, nil }

// freeBytes returns more than anything needs: what does not fit is found out later, and taken back.
func freeBytes(string) (int64, error) { return math.MaxInt64, nil }

func reserve(*os.File, int64) error { return nil }

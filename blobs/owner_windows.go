package blobs

import "os"

const noFollow = 0

// owner is nil on Windows, where files inherit their rights from the directory.
type owner struct{}

func foreignOwner(string) (*owner, error) { return nil, nil }

func (*owner) give(*os.File) error { return nil }

func (*owner) givePath(string) error { return nil }

func (*owner) reads(string) (bool, error) { return true, nil }

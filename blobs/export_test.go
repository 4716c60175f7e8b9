package blobs

// SyncsName is syncsName for tests.
var SyncsName = syncsName

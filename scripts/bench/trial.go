//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// trial is one group of rows on one target in one round, with a fresh directory.
type trial struct {
	*bench
	group   string
	target  target
	round   int
	dir     string
	made    int // images that it has, see fresh
	server  *server
	err     error
	context context.Context // of this trial alone: its end kills the server, and so every request
}

// fail ends a trial: nothing is done or added after the first error.
func (x *trial) fail(err error) {
	if x.err == nil {
		x.err = err
	}
}

func (x *trial) add(value float64, unit, format string, args ...any) {
	if x.err == nil {
		x.report.add(row{x.group, fmt.Sprintf(format, args...), unit}, x.target.name, x.round, value)
	}
}

// start starts the target on the fresh directory, below a command if there is one, and waits until it answers.
func (x *trial) start(below ...string) {
	x.serve(filepath.Join(x.dir, "data"), (*client).base, below...)
}

// serve starts the target on a directory and waits for an answer. The trial's end stops it.
func (x *trial) serve(data string, ask func(*client) error, below ...string) {
	if x.err != nil {
		return
	}
	if x.server, x.err = x.target.launch(data, filepath.Join(x.dir, "config"), below...); x.err != nil {
		return
	}
	context.AfterFunc(x.context, x.server.kill)
	c, err := newClient(x.server.url)
	if err == nil {
		err = x.server.until(func() error { return ask(c) })
		c.close()
	}
	x.fail(err)
}

func (x *trial) forgetPeak() {
	if x.err == nil {
		x.err = x.server.forgetPeak()
	}
}

func (x *trial) cpu() (took time.Duration) {
	if x.err == nil {
		took, x.err = x.server.cpu()
	}
	return took
}

func (x *trial) memory(field string) (mib float64) {
	if x.err == nil {
		mib, x.err = x.server.memory(field)
	}
	return mib
}

// job is what clients do: op, numbered from 0 on, until count were begun or the time is over.
type job struct {
	clients int
	count   int           // 0: no limit
	time    time.Duration // 0: no limit
	durable bool          // what was written counts only when it has reached the disk, whoever sees to that
	op      func(c *client, i int) error
}

// result is how long a job took and each of its operations.
type result struct {
	took time.Duration
	each []time.Duration // sorted
}

func (r result) perSecond() float64 { return float64(len(r.each)) / r.took.Seconds() }

// quantile is in milliseconds.
func (r result) quantile(q float64) float64 {
	if len(r.each) == 0 {
		return 0 // of a trial that failed
	}
	return milliseconds(r.each[int(q*float64(len(r.each)-1))])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// one has a single client do a single thing.
func (x *trial) one(op func(c *client) error) {
	x.do(job{clients: 1, count: 1, op: func(c *client, _ int) error { return op(c) }})
}

// do runs a job. Its clients are connected before the clock starts, and nothing that was written earlier still is to be.
func (x *trial) do(j job) (r result) {
	if x.err == nil {
		r, x.err = x.run(j)
	}
	return r
}

func (x *trial) run(j job) (r result, err error) {
	clients := make([]*client, j.clients)
	for i := range clients {
		if clients[i], err = newClient(x.server.url); err == nil {
			err = clients[i].base()
		}
		if err != nil {
			return r, err
		}
		defer clients[i].close()
	}
	if err := x.sync(); err != nil {
		return r, err
	}
	each := make([][]time.Duration, len(clients))
	var next atomic.Int64
	group, ctx := errgroup.WithContext(x.context)
	start := time.Now()
	for n, c := range clients {
		group.Go(func() error {
			for ctx.Err() == nil && (j.time == 0 || time.Since(start) < j.time) {
				i := int(next.Add(1) - 1)
				if j.count > 0 && i >= j.count {
					return nil
				}
				begin := time.Now()
				if err := j.op(c, i); err != nil {
					return err
				}
				each[n] = append(each[n], time.Since(begin))
			}
			return ctx.Err()
		})
	}
	err = group.Wait()
	if err == nil && j.durable {
		err = x.sync()
	}
	r = result{time.Since(start), slices.Concat(each...)}
	slices.Sort(r.each)
	if err == nil && len(r.each) == 0 {
		err = errors.New("nothing was done in time")
	}
	return r, err
}

// sync waits until everything is on the disk that was written to the file system of the data.
func (x *trial) sync() error {
	f, err := os.Open(x.server.data)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"registry/server/registry"
)

// Commands are run as root on a registry that a service runs as another user. What they make has to be that user's, and a
// link that the user planted must not lead root anywhere. So a process of root takes the identity of the owner before it
// opens the database and the blobs. What the command line names is opened as root: asRoot.

// owner is a user of the machine, with what it takes to become one.
type owner struct {
	uid, gid int
	groups   []int
}

func (o owner) String() string {
	if u, err := user.LookupId(strconv.Itoa(o.uid)); err == nil {
		return fmt.Sprintf("%s (uid %d)", u.Username, o.uid)
	}
	return fmt.Sprintf("uid %d", o.uid)
}

// newOwner completes the ids of a file's owner. A user that the machine does not know has the group of the file.
func newOwner(uid, gid int) owner {
	o := owner{uid: uid, gid: gid, groups: []int{gid}}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return o
	}
	if primary, err := strconv.Atoi(u.Gid); err == nil {
		o.gid, o.groups = primary, []int{primary}
	}
	names, err := u.GroupIds()
	if err != nil {
		return o
	}
	for _, name := range names {
		if id, err := strconv.Atoi(name); err == nil && id != o.gid {
			o.groups = append(o.groups, id)
		}
	}
	return o
}

// owner is the user whose registry is at a location: the owner of the database or, before there is one, of the blobs, or
// of the directory that it is made in.
func (at Location) owner() (owner, error) {
	for _, path := range []string{at.DB, at.Blobs} {
		info, err := os.Stat(path)
		if err == nil {
			return ownerOf(info), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return owner{}, err
		}
	}
	return ownerOfNearest(filepath.Dir(at.DB))
}

// ownerOfNearest is the owner of a directory or, if it is missing, of the nearest one above.
func ownerOfNearest(path string) (owner, error) {
	for path = absolute(path); ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err == nil {
			return ownerOf(info), nil
		}
		if !errors.Is(err, os.ErrNotExist) || path == filepath.Dir(path) {
			return owner{}, err
		}
	}
}

// asOwner takes the identity of the owner of the registry if this process is root's and the owner is not root. It stays
// root where the owner cannot get at the files: at the database, as behind the /var/lib/private of systemd, or in another
// user's directory with, "" for none, that the command reads or writes. The stores give the owner what root makes then.
func (p *Program) asOwner(at Location, with string) error {
	if !isRoot() {
		return nil
	}
	o, err := at.owner()
	if err != nil || o.uid == 0 {
		return err
	}
	why := ""
	if !o.reaches(at) {
		why = "cannot reach " + at.DB
	} else if with != "" {
		other, err := ownerOfNearest(with)
		if err != nil {
			return err
		}
		if other.uid != o.uid {
			why = "does not own " + with
		}
	}
	if why != "" {
		fmt.Fprintf(p.Stderr, "registry: stays root, because %s %s; what it makes in the registry belongs to them\n", o, why)
		return nil
	}
	if err := o.become(); err != nil {
		return fmt.Errorf("%s belongs to %s, and root cannot become them here: %w; run the command as that user", at.DB, o, err)
	}
	fmt.Fprintf(p.Stderr, "registry: acts as %s, who owns %s\n", o, at.DB)
	return nil
}

// reaches says whether the owner can follow the paths of the registry.
func (o owner) reaches(at Location) bool {
	return o.do(func() error {
		for _, path := range []string{at.DB, at.Blobs, filepath.Dir(at.DB)} {
			if _, err := os.Stat(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	}) == nil
}

// openStores opens the registry at a location as its owner.
func (p *Program) openStores(ctx context.Context, at Location, cfg registry.Config) (*Opened, error) {
	return p.openStoresWith(ctx, at, cfg, "")
}

// openStoresWith is openStores for a command that works on another directory too.
func (p *Program) openStoresWith(ctx context.Context, at Location, cfg registry.Config, other string) (*Opened, error) {
	if err := p.asOwner(at, other); err != nil {
		return nil, err
	}
	return p.Open(ctx, at, cfg)
}

// actAsOwner takes the identity of the owner for good in a server that was started as root: what it needs as root, its
// sockets, certificates and secrets, is open by now.
func (opt serveOptions) actAsOwner(log *slog.Logger) error {
	if !isRoot() {
		return nil
	}
	at := opt.location
	o, err := at.owner()
	if err != nil || o.uid == 0 {
		return err
	}
	if !o.reaches(at) {
		return fmt.Errorf("%s belongs to %s, who cannot reach it: run the server as that user, by its unit for example", at.DB, o)
	}
	for _, file := range opt.tls.watched() {
		err := o.do(func() error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			return f.Close()
		})
		if err != nil {
			log.Warn("only root can read the certificate: the server has to be restarted when there is a new one", "file", file, "user", o.String())
		}
	}
	if err := o.becomeForGood(); err != nil {
		return fmt.Errorf("%s belongs to %s, and root cannot become them here: %w; run the server as that user", at.DB, o, err)
	}
	log.Info("acting as the owner of the database", "user", o.String(), "db", absolute(at.DB))
	return nil
}

// The page of `ports` in JupyterLab: a card in the launcher, a side panel, and tabs of the main area.
// JupyterLab loads this file as it is. It is written by hand: `ports` needs neither Node nor a build.
(() => {
  "use strict";
  const LABEL = "Clusters and machines";
  const HIDDEN_SECONDS = 60; // a page that is hidden for longer is unloaded: nobody looks, so no host is asked
  const ICON =
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><g class="jp-icon3" fill="#616161">' +
    '<circle cx="6" cy="12" r="5"/><circle cx="19" cy="12" r="4"/><path d="M6 11h13v2H6z"/></g></svg>';
  let scope;

  // Return a module of JupyterLab. There are several versions if an extension brings its own; one is in use.
  const shared = async name => {
    const versions = Object.values(scope[name]);
    return (await (versions.find(one => one.loaded) ?? versions[0]).get())();
  };

  const makePlugin = async () => {
    const [{ ILayoutRestorer }, { ICommandPalette, IThemeManager, WidgetTracker }, { PageConfig, URLExt }] =
      await Promise.all(["application", "apputils", "coreutils"].map(name => shared(`@jupyterlab/${name}`)));
    const { ILauncher } = await shared("@jupyterlab/launcher");
    const { LabIcon } = await shared("@jupyterlab/ui-components");
    const { Widget } = await shared("@lumino/widgets");
    const icon = new LabIcon({ name: "ports:icon", svgstr: ICON });
    const top = URLExt.join(PageConfig.getBaseUrl(), "ports/");

    // A page in a frame, which is loaded when it is first seen.
    class Page extends Widget {
      constructor(id, { label = "", address = top, loaded = () => {} } = {}) {
        super();
        Object.assign(this, { id, address, frame: document.createElement("iframe") });
        Object.assign(this.title, { icon, label, caption: label });
        this.frame.title = label;
        Object.assign(this.frame.style, { border: "0", width: "100%", height: "100%" });
        this.frame.addEventListener("load", () => loaded(this));
        this.node.append(this.frame);
      }

      onAfterAttach() {
        this.onAfterShow();
      }

      onAfterShow() {
        clearTimeout(this.timer);
        if (this.isVisible && !this.frame.hasAttribute("src")) this.frame.src = this.address;
      }

      onAfterHide() {
        if (this.address === top) this.timer = setTimeout(() => this.frame.removeAttribute("src"), HIDDEN_SECONDS * 1000);
      }

      onActivateRequest() {
        this.frame.focus();
      }

      dispose() {
        clearTimeout(this.timer);
        super.dispose();
      }
    }

    const activate = (app, launcher, palette, restorer, themes) => {
      const command = "ports:open";
      const tabs = new WidgetTracker({ namespace: "ports" });
      // The page has the colours of JupyterLab's theme, whatever those of the system are.
      const paint = page => {
        const scheme = !themes?.theme || themes.isLight(themes.theme) ? "light" : "dark";
        page.frame.contentDocument?.documentElement.style.setProperty("color-scheme", scheme);
      };
      // Links to dashboards of clusters that this Jupyter server shows below /ports/NAME/ become tabs here.
      const dashboard = href => {
        if (!href?.startsWith(`${top}-/go?`)) return undefined;
        const asked = new URL(href).searchParams;
        const isHere = asked.get("kind") === "cluster" && asked.get("host") === PageConfig.getOption("portsHost");
        return isHere ? asked.get("name") : undefined;
      };
      const follow = event => {
        const name = dashboard(event.target.closest?.("a[href]")?.href);
        if (!name || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        void app.commands.execute(command, { name });
      };
      const loaded = page => {
        if (page.address !== top) return;
        paint(page);
        page.frame.contentDocument?.addEventListener("click", follow);
      };
      const open = ({ name = "" }) => {
        const id = name ? `ports-tab-${name}` : "ports-tab";
        const found = tabs.find(one => one.id === id);
        if (found) return found;
        const made = name
          ? new Page(id, { label: `${name} (Dask)`, address: URLExt.join(top, name, "status") })
          : new Page(id, { label: LABEL, loaded });
        made.title.closable = true;
        app.shell.add(made, "main");
        void tabs.add(made);
        return made;
      };

      app.commands.addCommand(command, {
        label: args => (args.isPalette ? `Open ${LABEL.toLowerCase()}` : LABEL),
        caption: "Your clusters, notebooks and jobs, and who uses this machine",
        icon: args => (args.isPalette ? undefined : icon),
        execute: args => {
          const page = open(args);
          app.shell.activateById(page.id);
          return page;
        },
      });
      const side = new Page("ports-side", { loaded });
      side.title.caption = side.frame.title = `${LABEL} (ports)`;
      app.shell.add(side, "left", { rank: 250 });
      themes?.themeChanged.connect(() => [side, ...tabs.filter(one => one.address === top)].forEach(paint));
      launcher?.add({ command, category: "Other", rank: 1 });
      palette?.addItem({ command, category: "ports", args: { isPalette: true } });
      restorer?.add(side, side.id);
      const name = page => page.id.slice("ports-tab-".length);
      void restorer?.restore(tabs, { command, args: page => ({ name: name(page) }), name: page => page.id });
    };
    const optional = [ILauncher, ICommandPalette, ILayoutRestorer, IThemeManager];
    return { id: "ports:page", description: LABEL, autoStart: true, optional, activate };
  };

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB.ports = {
    init: given => {
      scope = given;
    },
    get: async () => {
      const plugin = await makePlugin();
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();

using System;
using System.Linq;
using System.Xml.Linq;

class Program {
    static void Main() {
        var shop = XElement.Parse("<shop><price>3</price><price>4</price></shop>");
        dynamic total = shop.Elements("price").Sum(price => (int)price);
        Console.WriteLine(total);
    }
}
